"""Learning curves: the demo's settings over seeds, funnels and cycles. Interrupted, it goes on where it was.

Writes OUT/curves.csv (one row per funnel, seed and cycle), OUT/curves.json (mean, worst, interval by cycle) and
OUT/curves.svg, anew whenever it is started, with what is done by then. Every value is exact by the
performance-difference estimate on the gate's conversations.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ippo_trainer.contract.spec import StoreLocation
from ippo_trainer.evaluation.ledger import read_ledger
from ippo_trainer.store import open_store

sys.path.insert(0, str(Path(__file__).parent))
from curves import Row, show, write
from funnels import draw

EXAMPLES = Path(__file__).parents[2] / "examples"
DESIGN, GARDEN, CATALOGUE, BLIND = "design", "garden", "catalogue", "catalogue-blind"
EXAMPLE = {GARDEN: "garden.yaml", CATALOGUE: "catalogue-shop.yaml", BLIND: "catalogue-shop.yaml"}


@dataclass(frozen=True)
class Run:
    """One run of the loop."""

    funnel: str
    """`design`, the seed of its tables, or another environment: one of `EXAMPLE`."""
    seed: int
    folder: Path


def main() -> None:
    """Runs what is not done yet, and writes the curves of what is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cycles", type=int, default=5)
    parser.add_argument(
        "--funnels",
        nargs="+",
        default=[DESIGN],
        help="`design`, seeds of tables, `garden`, `catalogue`, or `catalogue-blind`: the same without the context",
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, each on one core")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=JSON", help="e.g. improve.algorithm='\"PPO\"'"
    )
    options = parser.parse_args()
    runs = [
        Run(funnel, seed, options.out / f"{funnel}-{seed}")
        for funnel in options.funnels
        for seed in range(options.seeds)
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        for run in runs:
            pool.submit(carry_out, run, options.cycles, options.set)
    curves = {"product": [row for run in runs for row in read(run)]}
    write(options.out, curves)
    show(curves)


def carry_out(run: Run, cycles: int, changes: list[str]) -> None:
    """Starts or resumes a run; what it says goes into its log."""
    run.folder.mkdir(parents=True, exist_ok=True)
    path = run.folder / "run.yaml"
    path.write_text(yaml.safe_dump(manifest(run, cycles, changes)))
    command = [str(Path(sys.executable).parent / "ippo"), "run", "-f", str(path), "--out", str(run.folder / "run")]
    with (run.folder / "log").open("a") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"})


def manifest(run: Run, cycles: int, changes: list[str]) -> dict[str, Any]:
    """The demo's, with a seed, a funnel and other settings where they are asked for."""
    value: dict[str, Any] = yaml.safe_load((EXAMPLES / EXAMPLE.get(run.funnel, "sr-funnel.yaml")).read_text())
    spec = value["spec"]
    spec |= {"seed": run.seed, "threads": 1, "iterations": {"max": cycles}}
    spec["collect"]["simulate"]["parallelism"] = 1
    if run.funnel.isdigit():
        tables, horizon = draw(int(run.funnel))
        file = run.folder / "tables.json"
        file.write_text(json.dumps(tables))
        options = {"tables": str(file.resolve()), "horizon": horizon}
        spec["collect"]["simulate"]["environment"]["options"] = options
    if run.funnel == BLIND:
        spec["collect"]["simulate"]["environment"]["options"] = {"catalogue": False}
    change_fields(spec, changes)
    return value


def change_fields(spec: dict[str, Any], changes: list[str]) -> None:
    """Sets fields of a spec, each as FIELD=JSON."""
    for change in changes:
        field, _, text = change.partition("=")
        section = spec
        *parents, last = field.split(".")
        for name in parents:
            section = section.setdefault(name, {})
        section[last] = json.loads(text)


def read(run: Run) -> Iterator[Row]:
    """The cycles that have been evaluated."""
    artifacts = run.folder / "run" / "artifacts"
    if not artifacts.exists():
        return
    for line in read_ledger(open_store(StoreLocation(directory=str(artifacts)))):
        metrics, decision = line["metrics"], line["decision"]["outcome"]
        candidate, before = metrics["exactShareOfOptimum"], metrics["exactShareOfOptimumCurrent"]
        deployed = candidate if decision == "Promote" else before
        yield Row(run.funnel, run.seed, line["iteration"], deployed, candidate, before, decision)


if __name__ == "__main__":
    main()
