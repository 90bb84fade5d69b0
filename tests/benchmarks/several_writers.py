"""Q of a log that several writers wrote, against the exact Q: is it as good as on data of the policy's own?

Three writers wrote a log of SR-funnel. `SARSA` takes all turns for one policy's, the mixture of the writers;
`ExpectedSARSA` asks what a suggestion is worth if the first writer goes on after it. Each is compared with Monte Carlo
on as many conversations of that policy alone. The error is the root mean square of Q less the exact Q, of suggestions
in conversations of the policy that nobody learnt from. Prints a row for each case and seed, then the ratios.

    python tests/benchmarks/several_writers.py
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ippo_trainer.contract.params import FitQ
from ippo_trainer.data.own import all_own, by_writers, foreign_as_explored
from ippo_trainer.data.schema import Conversation
from ippo_trainer.environments.problem import Array
from ippo_trainer.qfit.exact import States, comparison_of, read_intents

sys.path.insert(0, str(Path(__file__).parent))
from known_writers import DISCOUNT, MAX_TOKENS, Shop, fit, single_thread

OWN, TESTED = "w0", 500
MONTE_CARLO = FitQ(method="MonteCarlo")


@dataclass(frozen=True)
class Case:
    """A method on a log of three writers, and whose Q it should be."""

    method: FitQ
    by_turn: bool
    """The writers take turns within conversations; else each holds conversations of its own."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.method.method}, writers by {'turn' if self.by_turn else 'conversation'}"


CASES = (
    Case(FitQ(method="SARSA"), by_turn=True),  # by conversation the writers together are no policy
    Case(FitQ(method="ExpectedSARSA"), by_turn=True),
    Case(FitQ(method="ExpectedSARSA"), by_turn=False),
)


def main() -> None:
    """Prints errors by case and seed, and for each case the ratio of the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--conversations", type=int, default=3000)
    given = parser.parse_args()
    single_thread()
    for case in CASES:
        errors = []
        for seed in range(given.seeds):
            errors.append(measure(case, seed, given.conversations))
            print(f"{case.name}, seed {seed}: {errors[-1][0]:.4f}, Monte Carlo {errors[-1][1]:.4f}", flush=True)
        own, on_policy = np.mean(errors, axis=0)
        print(f"{case.name}: {own:.4f} against {on_policy:.4f}, {own / on_policy:.2f} times", flush=True)


def measure(case: Case, seed: int, count: int) -> tuple[float, float]:
    """Error of the case's Q on the mixed log, and of Monte Carlo's on as much data of the policy's own."""
    shop = Shop(seed)
    writers = shop.writers(3)
    mixed = shop.log(writers, count, 0, case.by_turn)
    sarsa = case.method.method == "SARSA"
    target = np.mean(writers, axis=0) if sarsa else writers[0]
    marked = all_own(mixed) if sarsa else foreign_as_explored(mixed, by_writers([OWN]))
    tested = shop.log([target], TESTED, 1)
    return (
        error(shop, target, tested, marked, case.method, seed),
        error(shop, target, tested, shop.log([target], count, 2), MONTE_CARLO, seed),
    )


def error(
    shop: Shop, target: Array, tested: Sequence[Conversation], log: Sequence[Conversation], method: FitQ, seed: int
) -> float:
    """Of Q fitted to a log, over the suggestions of the tested conversations."""
    fitted = fit(log, method, seed)
    rows = shop.funnel.exact_q(tested, DISCOUNT, lambda turn, stage, features: target[stage])
    states = States(tested, [turn for row in rows for turn in row])
    comparison = comparison_of(
        shop.funnel, states, *read_intents(fitted.model, fitted.renderer, shop.funnel, states, MAX_TOKENS)
    )
    assert comparison is not None  # every suggestion is the funnel's
    return comparison.suggestions.error


if __name__ == "__main__":
    main()
