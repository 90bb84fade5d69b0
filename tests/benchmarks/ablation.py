"""What every default is worth: learning.py with one setting changed at a time, each in a folder of its own. Resumes.

    python tests/benchmarks/ablation.py --out build/bench/ablation --seeds 2 --cycles 3

Writes OUT/curves.csv, .json and .svg with a curve for each change, and prints by how much the last cycle's mean differs
from that of the defaults.
"""

import argparse
from pathlib import Path

from curves import Row, by_cycle, summary, write
from learning import DESIGN, Run, carry_out, read

DEFAULTS = "defaults"
CHANGES: dict[str, str] = {
    "head by the gradient": 'fitQ.lastLayer="Gradient"',
    "rank 8 alone": "fitQ.ranks=[8]",
    "rank 24 alone": "fitQ.ranks=[24]",
    "one fold": "fitQ.folds=1",
    "ridge 10": 'fitQ.ridge="10"',
    "ridge 1000": 'fitQ.ridge="1000"',
    "Monte Carlo": 'fitQ.traceLambda="1"',
    "one-step TD": 'fitQ.traceLambda="0"',
    "no language loss": 'fitQ.lmLossWeight="0"',
    "a new trunk each time": 'fitQ.initFrom="Policy"',
    "PPO": 'improve.algorithm="PPO"',
    "klTarget 1": 'improve.klTarget="1.0"',
    "500 conversations": "improve.mpo.conversations=500",
    "no own candidates but one": "improve.mpo.ownCandidates=1",
    "8 explored candidates": "improve.mpo.exploredCandidates=8",
    "half of the mixture explored": 'improve.mpo.explorerShare="0.5"',
    "3 passes": "improve.mpo.epochs=3",
    "eta from .02": 'improve.mpo.leastTemperature="0.02"',
    "exploration .1": 'collect.simulate.exploration="0.1"',
    "explorer at temperature 1": 'collect.simulate.explorationTemperature="1"',
    "no min-p": 'collect.simulate.explorationMinP="0"',
    "exploration halves": 'collect.simulate.explorationDecay="0.5"',
}
"""By name the field and the value that stands for its default."""


def main() -> None:
    """Runs what is not done yet, and writes the curves of what is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--cycles", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(CHANGES), default=list(CHANGES), metavar="NAME")
    options = parser.parse_args()
    changes = {DEFAULTS: []} | {name: [CHANGES[name]] for name in options.only}
    curves: dict[str, list[Row]] = {}
    for name, change in changes.items():
        runs = [Run(DESIGN, seed, options.out / f"{name.replace(' ', '-')}-{seed}") for seed in range(options.seeds)]
        for run in runs:
            carry_out(run, options.cycles, change)
        curves[name] = [row for run in runs for row in read(run)]
        write(options.out, curves)
        print(line(name, curves), flush=True)


def line(name: str, curves: dict[str, list[Row]]) -> str:
    """The last cycle of a change beside that of the defaults."""
    shares, base = by_cycle(curves[name]), by_cycle(curves[DEFAULTS])
    if not shares or not base:
        return f"{name}: nothing is done; see the log in its folder"
    last = max(shares)
    mean = summary(shares[last])["mean"]
    difference = mean - summary(base[last])["mean"] if last in base else float("nan")
    return f"{name}: {mean:.3f} in cycle {last} ({difference:+.3f})"


if __name__ == "__main__":
    main()
