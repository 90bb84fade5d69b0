"""Small runs for the tests that drive `ippo run` as a user does."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

EXAMPLES = Path(__file__).parents[2] / "examples"

# Conversations enough that Q's skill is clear on any CPU: sums round differently, and so do the policies that talk.
SMALL: dict[str, Any] = {
    "apiVersion": "ippo.dev/v1alpha1",
    "kind": "IterativePPORun",
    "metadata": {"name": "small"},
    "spec": {
        "seed": 7,
        "discount": "0.95",
        "threads": 1,
        "iterations": {"max": 2},
        "policy": {"base": "tiny:d32-l1", "maxPromptTokens": 256},
        "warmStart": {"demonstrations": 1500, "epochs": 4, "batchSize": 16, "learningRate": "0.006"},
        "collect": {
            "simulate": {
                "environment": {
                    "name": "sr-funnel",
                    "options": {"horizon": 4, "tables": str(EXAMPLES / "easy-customers.json")},
                },
                "conversations": 4000,
                "parallelism": 2,
            }
        },
        "fitQ": {"epochs": 3, "batchSize": 16},
        "improve": {"updates": 6, "criticWarmupUpdates": 2, "batchSize": 16},
        "evaluate": {"conversations": 200, "gate": {"onInconclusive": "Promote"}},
    },
}


def write_run(folder: Path, **sections: Any) -> Path:
    """SMALL with some sections of its spec replaced, as a YAML file in `folder`."""
    manifest = json.loads(json.dumps(SMALL))
    manifest["spec"].update(sections)
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(manifest, sort_keys=False))
    return path


def write_smoke(folder: Path, **sections: Any) -> Path:
    """The smoke example, its tables found from anywhere."""
    manifest = yaml.safe_load((EXAMPLES / "tiny-smoke.yaml").read_text())
    environment = manifest["spec"]["collect"]["simulate"]["environment"]
    environment["options"]["tables"] = str(EXAMPLES / "easy-customers.json")
    manifest["spec"] |= sections
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(manifest))
    return path


def start(manifest: Path, out: Path, **environment: str) -> subprocess.Popen[str]:
    """`ippo run` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "ippo_operator.cli.main", "run", "-f", str(manifest), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, **environment},
    )


def finish(manifest: Path, out: Path, **environment: str) -> str:
    """Runs to the end, asserts success, returns what it printed."""
    process = start(manifest, out, **environment)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def kill(process: subprocess.Popen[str]) -> None:
    """kill -9 of the runner and of everything that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def status(out: Path) -> dict[str, Any]:
    """`ippo status DIR --json`."""
    command = [sys.executable, "-m", "ippo_operator.cli.main", "status", str(out), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def ledger(out: Path) -> list[dict[str, Any]]:
    """The run's ledger: inputs, digests, metrics and decision of each iteration."""
    [path] = out.glob("artifacts/**/ledger.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]
