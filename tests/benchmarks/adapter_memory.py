"""What adapters save: the peak memory of each stage of one iteration, with adapters and with all weights, in fp32.

Two runs on this machine with the same base, the tea shop's log and the same settings but `policy.adapter`.

    python tests/benchmarks/adapter_memory.py BASE --out FOLDER     BASE: folder of a chat model in safetensors
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
_BIN = Path(sys.executable).parent
TEA = f"{ROOT / 'examples' / 'my_environment.py'}:TeaShop"
BUYERS = {"asked": "0.8", "unasked": "0.05"}
RUNS: dict[str, dict[str, Any]] = {"all weights": {}, "adapters": {"adapter": {"rank": 8}}}


def main() -> None:
    """Runs what is not done yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, metavar="BASE")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--conversations", type=int, default=300, help="of the log (default: %(default)s)")
    options = parser.parse_args()
    log = options.out.resolve() / "log.jsonl"
    options.out.mkdir(parents=True, exist_ok=True)
    if not log.exists():
        write_log(log, options.conversations)
    peaks = {name: run(options.out / name.replace(" ", "-"), options.base, log, own) for name, own in RUNS.items()}
    show(peaks)


def write_log(path: Path, conversations: int) -> None:
    """What the tea shop's business says by itself."""
    command = [sys.executable, str(ROOT / "examples" / "shop" / "shop.py"), "--log", str(path), "--environment", TEA]
    buyers = [text for name, value in BUYERS.items() for text in ("--option", f"{name}={value}")]
    subprocess.run([*command, *buyers, "--conversations", str(conversations)], check=True)


def run(folder: Path, base: Path, log: Path, policy: dict[str, Any]) -> dict[str, float]:
    """GB that each stage of a run took, by its log."""
    folder.mkdir(exist_ok=True)
    manifest = {
        "apiVersion": "ippo.dev/v1alpha1",
        "kind": "IterativePPORun",
        "metadata": {"name": "memory"},
        "spec": {
            "threads": 1,
            "iterations": {"max": 1},
            "policy": {"base": f"file://{base.resolve()}", "maxPromptTokens": 256, "maxNewTokens": 12} | policy,
            "warmStart": {"conversations": f"file://{log}", "epochs": 1},
            "collect": {"history": {"conversations": f"file://{log}"}},
            "fitQ": {"epochs": 2, "holdout": "0.4"},
            "improve": {"algorithm": "PPO", "updates": 1, "criticWarmupUpdates": 1, "batchSize": 8},
        },
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(manifest))
    # It ends with its candidate waiting for an approval, which is no failure here.
    subprocess.run([str(_BIN / "ippo"), "run", "-f", str(path), "--out", str(folder / "run")], check=False)
    status = json.loads((folder / "run" / "status.json").read_text())
    if not any(stage["stage"] == "improve" for row in status["iterations"] for stage in row["stages"]):
        raise SystemExit(f"{folder}: improve did not end; {folder / 'run'} says why")
    texts = [file.read_text() for file in (folder / "run").glob("jobs/**/*.txt")]
    peaks = [pair for text in texts for pair in re.findall(r"([a-z-]+): peak memory ([0-9.]+) GB", text)]
    return {stage: max(float(size) for name, size in peaks if name == stage) for stage, _ in peaks}


def show(peaks: dict[str, dict[str, float]]) -> None:
    """A row for each stage."""
    whole, own = (peaks[name] for name in RUNS)
    print("stage        all weights   adapters   ratio")
    for stage in whole:
        print(f"{stage:12} {whole[stage]:8.1f} GB {own[stage]:7.1f} GB {own[stage] / whole[stage]:7.2f}")


if __name__ == "__main__":
    main()
