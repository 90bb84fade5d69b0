"""How often the gate promotes and rejects, by the true lift and the number of conversations: a table, by simulation.

A customer is a number below which a policy sells, shared by both policies, or in `--own` of the cases one for each: two
policies that talk differently meet the same customer with luck of their own.
"""

import argparse
from collections import Counter

import numpy as np
from ippo_trainer.contract.params import Gate
from ippo_trainer.evaluation.gate import GateInputs, decide
from ippo_trainer.stats.intervals import paired_difference

LIFTS = (-0.04, -0.02, -0.01, 0.0, 0.01, 0.02, 0.04, 0.08)
SIZES = (500, 1000, 2000, 5000)


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--success", type=float, default=0.25, help="of the current policy")
    parser.add_argument(
        "--own", type=float, default=0.5, help="share of customers with whom each policy has its own luck"
    )
    parser.add_argument("--confidence", default="0.95", help="evaluate.gate.confidence")
    parser.add_argument("--times", type=int, default=2000, help="gates for each cell")
    options = parser.parse_args()
    gate = Gate(metric="Success", confidence=options.confidence)
    print("| true lift | " + " | ".join(f"{size:,} pairs" for size in SIZES) + " |\n|---|" + "---|" * len(SIZES))
    for lift in LIFTS:
        cells = []
        for size in SIZES:
            counts = outcomes(gate, options.success, lift, options.own, size, options.times)
            cells.append(f"{counts['Promote'] / options.times:.1%} / {counts['Reject'] / options.times:.1%}")
        print(f"| {lift:+.0%} | " + " | ".join(cells) + " |")


def outcomes(gate: Gate, success: float, lift: float, own: float, size: int, times: int) -> Counter[str]:
    """Decisions of `times` gates on `size` pairs each."""
    counts: Counter[str] = Counter()
    for number in range(times):
        random = np.random.default_rng([size, round(1000 * (lift + 1)), number])
        shared, other, apart = random.random(size), random.random(size), random.random(size) < own
        current, candidate = shared < success, np.where(apart, other, shared) < success + lift
        interval = paired_difference(candidate, current, float(gate.confidence))
        counts[decide(gate, GateInputs(interval, None, None, "pairs")).outcome] += 1
    return counts


if __name__ == "__main__":
    main()
