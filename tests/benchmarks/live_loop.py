"""The live loop: customers over HTTP, a gateway, what it logs, and A/B tests; every policy scored exactly.

The shop's run on this machine, with the shop beside it. Prints a row for each policy: whether it was promoted, by how
many conversations, and its exact value. Interrupted, it goes on where it was.

    python tests/benchmarks/live_loop.py --out FOLDER
    python tests/benchmarks/live_loop.py --out FOLDER --easy    customers who buy more often, and a smaller model
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent))
from learning import change_fields

SHOP = Path(__file__).parents[2] / "examples" / "shop"
EASY = {"horizon": "4", "tables": str(SHOP.parent / "easy-customers.json")}
SMALL = (
    'policy.base="tiny:d32-l1"',
    "warmStart.epochs=6",
    'warmStart.learningRate="0.006"',
    "collect.logged.minConversations=3000",
    "collect.logged.maxConversations=6000",
    "fitQ.batchSize=16",
    "fitQ.epochs=6",
    'improve={"updates": 12, "batchSize": 16, "criticWarmupUpdates": 2, "learningRate": "0.002", "klTarget": "1.5", '
    '"klCoefficient": "0.01"}',
    "serve.canary.maxConversations=1500",
)
"""Of the smoke example."""
_BIN = Path(sys.executable).parent


def main() -> None:
    """Runs what is not done yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--log", type=int, default=4000, metavar="N", help="conversations of the first log")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--easy", action="store_true", help="the smoke example's customers and model: minutes")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=JSON", help="e.g. iterations.max=2")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    customers = EASY if options.easy else {}
    log, manifest = options.out / "log.jsonl", options.out / "run.yaml"
    if not log.exists():
        subprocess.run([*_shop(customers), "--log", str(log), "--conversations", str(options.log)], check=True)
    manifest.write_text(yaml.safe_dump(changed(log, options.port, [*(SMALL if options.easy else ()), *options.set])))
    shop = [*_shop(customers), "--url", f"http://localhost:{options.port}", "--concurrency", str(options.concurrency)]
    code = loop(options.out, manifest, shop)
    show(options.out / "run", customers)
    sys.exit(code)


def changed(log: Path, port: int, changes: list[str]) -> dict[str, Any]:
    """The shop's run with its log, and with other settings where they are asked for."""
    value: dict[str, Any] = yaml.safe_load((SHOP / "run.yaml").read_text())
    spec = value["spec"]
    spec["warmStart"]["conversations"] = f"file://{log.resolve()}"
    spec["gateway"]["port"] = port
    change_fields(spec, changes)
    return value


def loop(out: Path, manifest: Path, shop: list[str]) -> int:
    """The run to its end, with customers all the while; returns its exit code."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [str(_BIN / "ippo"), "run", "-f", str(manifest), "--out", str(out / "run")]
    customers = [*shop, "--forever", "--state", str(out / "state.json"), "--wait", "3600"]
    with (out / "run.log").open("a") as log, (out / "shop.log").open("a") as shop_log:
        talk = subprocess.Popen(customers, stdout=shop_log, stderr=shop_log, env=environment)
        try:
            return subprocess.run(command, stdout=log, stderr=log, env=environment).returncode
        finally:
            talk.send_signal(signal.SIGINT)
            talk.wait()


def show(run: Path, customers: dict[str, str]) -> None:
    """The table."""
    status = json.loads((run / "status.json").read_text())
    optimum = 0.0
    print("policy  promoted  outcomes of candidate    of current  exact value  of optimum")
    for row in status["iterations"]:
        policies = sorted(
            (run / "artifacts" / "iterations" / f"{row['iteration']:04d}" / "policy").glob("*/manifest.json")
        )
        if not policies:
            continue
        answer = exact(policies[-1].parent, customers)
        value, optimum = answer["policies"][-1]["value"], answer["optimum"]
        arms = [row.get("canary", {}).get(arm) or {} for arm in ("candidate", "control")]
        counts = [f"{arm.get('outcomes', 0)}/{arm['conversations']}" if arm else "" for arm in arms]
        promoted = {True: "yes", False: "no"}.get(row.get("promoted"), "")
        line = f"{row['iteration']:6}  {promoted:>8}  {counts[0]:>21}  {counts[1]:>12}"
        print(f"{line}  {value:11.4f}  {value / optimum:10.1%}")
    print(f"optimum {optimum:.4f}")


def exact(policy: Path, customers: dict[str, str]) -> dict[str, Any]:
    """The policy against the exact solution."""
    command = [str(_BIN / "ippo"), "exact", "--env", "sr-funnel", "--json", "--policy", str(policy)]
    command += [text for name, value in customers.items() for text in (f"--{name}", value)]
    answer: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return answer


def _shop(customers: dict[str, str]) -> list[str]:
    options = [text for name, value in customers.items() for text in ("--option", f"{name}={value}")]
    return [sys.executable, str(SHOP / "shop.py"), *options]


if __name__ == "__main__":
    main()
