"""How many live conversations an A/B test takes to promote, by the active policy's rate of outcomes and the lift.

A table as Markdown: conversations of both sides together until the promotion of half of the candidates, and of nine in
ten, with looks 1 % apart; in brackets what a z test with a single look needs for a power of .8, at the same level.
"""

import argparse
import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from ippo_trainer.stats.sequential import Experiment, Trials, log_evidence

RATES = (0.02, 0.05, 0.1, 0.2, 0.5)
LIFTS = (0.1, 0.2, 0.5, 1.0)
"""Relative ones: 0.5 makes 15 % of 10 %."""
POWER = 0.8
STEP = 1.01
LONGEST = 8
"""Times what the z test needs: so long a test is followed."""


@dataclass(frozen=True)
class Case:
    """Two policies under test."""

    rate: float
    """Of outcomes, with the active policy."""
    lift: float
    share: float
    """Of conversations that are the candidate's."""
    level: float

    @property
    def better(self) -> float:
        """The candidate's rate."""
        return self.rate * (1 + self.lift)

    def single(self) -> float:
        """Conversations that a z test with a single look needs."""
        normal = NormalDist()
        variance = self.rate * (1 - self.rate) / (1 - self.share) + self.better * (1 - self.better) / self.share
        quantiles = normal.inv_cdf(1 - self.level) + normal.inv_cdf(POWER)
        return quantiles**2 * variance / (self.better - self.rate) ** 2


def promoted_after(case: Case, tests: int, seed: int = 0) -> np.ndarray:
    """Conversations until each of so many tests promotes (tests,); infinite where it does not in time."""
    most = LONGEST * case.single()
    looks = np.unique(np.geomspace(20, most, math.ceil(math.log(most / 20) / math.log(STEP))).astype(np.int64))
    rng, steps = (
        np.random.default_rng([seed, round(1000 * case.rate), round(1000 * case.lift)]),
        np.diff(looks, prepend=0),
    )
    mine = rng.binomial(steps, case.share, (tests, len(looks)))
    won, lost = rng.binomial(mine, case.better).cumsum(1), rng.binomial(steps - mine, case.rate).cumsum(1)
    mine = mine.cumsum(1)
    evidence = log_evidence(Experiment(Trials(mine, won), Trials(looks - mine, lost), case.share))
    over = evidence >= -math.log(case.level)
    return np.where(over.any(1), looks[over.argmax(1)], np.inf)


def cell(case: Case, tests: int) -> str:
    """Half, nine in ten, and the z test."""
    if case.better >= 1:
        return "-"
    after = promoted_after(case, tests)
    return " / ".join(rounded(np.quantile(after, share, method="higher")) for share in (0.5, 0.9)) + (
        f" ({rounded(case.single())})"
    )


def rounded(number: float) -> str:
    """To two digits, as far as a simulation tells."""
    return f"{float(f'{number:.2g}'):,.0f}" if math.isfinite(number) else "more"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.5, help="serve.canary.share")
    parser.add_argument("--level", type=float, default=0.05, help="serve.canary.level")
    parser.add_argument("--tests", type=int, default=400, help="for each cell")
    options = parser.parse_args()
    print("| outcomes | " + " | ".join(f"lift {lift:+.0%}" for lift in LIFTS) + " |\n|---|" + "---|" * len(LIFTS))
    for rate in RATES:
        cells = [cell(Case(rate, lift, options.share, options.level), options.tests) for lift in LIFTS]
        print(f"| {rate:.0%} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
