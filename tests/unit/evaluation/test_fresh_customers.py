"""Why every iteration meets customers of its own: runs of many cycles, simulated with customers of several designs.

A policy is its chance of a sale; a customer is a number below which a policy sells, so that two policies on the same
customer are paired. Each policy adds luck of its own with each customer: what it would say to that one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from ippo_trainer.contract.params import Gate
from ippo_trainer.evaluation.gate import GateInputs, decide
from ippo_trainer.stats.intervals import Interval, paired_difference

CUSTOMERS, CYCLES, RUNS, SALES = 300, 6, 250, 0.2
GATE = Gate(metric="Success", confidence="0.9")
TAIL = 0.05
"""Nominal rate of false promotions per cycle: one side of the gate's two-sided level."""


@dataclass(frozen=True)
class Policy:
    """One of many equally good ones."""

    number: int

    def sells(self, customers: int) -> np.ndarray:
        """(CUSTOMERS,) outcomes with the customers of this number: equal for equal policies and customers."""
        shared = np.random.default_rng([7, customers]).random(CUSTOMERS)
        own = np.random.default_rng([8, self.number, customers]).random(CUSTOMERS)
        return (np.where(own < 0.5, shared, own * 2 - 1) < SALES).astype(float)


@dataclass
class Cycle:
    promoted: bool
    lift: Interval
    candidate: float
    current: float
    after: str
    """What the cycle before decided: `Promote`, `Reject`, `Inconclusive`, or `` in the first one."""


def run(number: int, customers_of: Callable[[int], int], reuse: bool = False) -> list[Cycle]:
    """A run of equally good candidates. With `reuse`, what the current policy said in the cycle before counts again."""
    current, cycles, after = Policy(100 * number), [], ""
    earlier: np.ndarray | None = None
    for cycle in range(CYCLES):
        candidate, customers = Policy(100 * number + cycle + 1), customers_of(cycle) + 1000 * number
        one, other = candidate.sells(customers), current.sells(customers)
        baseline = (other + earlier) / 2 if reuse and earlier is not None else other
        lift = paired_difference(one, baseline, float(GATE.confidence))
        decision = decide(GATE, GateInputs(lift, None, None, "pairs"))
        promoted = decision.outcome == "Promote"
        cycles.append(Cycle(promoted, lift, one.mean(), other.mean(), after))
        current, after, earlier = (candidate, decision.outcome, one) if promoted else (current, decision.outcome, other)
    return cycles


@pytest.fixture(scope="module")
def fresh() -> list[list[Cycle]]:
    return [run(number, lambda cycle: cycle) for number in range(RUNS)]


@pytest.fixture(scope="module")
def same() -> list[list[Cycle]]:
    return [run(number, lambda cycle: 0) for number in range(RUNS)]


def rate(cycles: list[Cycle]) -> float:
    return float(np.mean([cycle.promoted for cycle in cycles]))


def test_fresh_customers_promote_at_their_level_whatever_came_before(fresh: list[list[Cycle]]) -> None:
    later = [cycle for cycles in fresh for cycle in cycles[1:]]
    assert rate([cycle for cycles in fresh for cycle in cycles]) == pytest.approx(TAIL, abs=0.015)
    for after in ("Promote", "Reject", "Inconclusive"):
        group = [cycle for cycle in later if cycle.after == after]
        assert len(group) > 40
        assert rate(group) == pytest.approx(TAIL, abs=3 * np.sqrt(TAIL / len(group)))
        assert np.mean([cycle.lift.estimate for cycle in group]) == pytest.approx(0.0, abs=0.015)


def test_with_the_same_customers_luck_persists(same: list[list[Cycle]]) -> None:
    """A promoted policy suits these customers, so its followers look worse than they are; rejections repeat."""
    later = [cycle for cycles in same for cycle in cycles[1:]]
    after_promotion = [cycle for cycle in later if cycle.after == "Promote"]
    assert np.mean([cycle.lift.estimate for cycle in after_promotion]) < -0.02
    assert rate(after_promotion) < 0.5 * TAIL
    rejected = [cycle.lift.high <= 0.0 for cycle in later if cycle.after == "Reject"]
    assert np.mean(rejected) > 2 * TAIL  # the second rejection is the first one again


def test_reusing_the_current_policys_conversations_is_biased(fresh: list[list[Cycle]]) -> None:
    """They decided that it is current, and given that they are too good: every later candidate seems worse."""
    reused = [cycle for number in range(RUNS) for cycle in run(number, lambda cycle: cycle, reuse=True)[1:]]
    bias = np.mean([cycle.lift.estimate for cycle in reused])
    error = np.std([cycle.lift.estimate for cycle in reused]) / np.sqrt(len(reused))
    assert bias < -3 * error
    honest = [cycle.lift.estimate for cycles in fresh for cycle in cycles[1:]]
    assert abs(np.mean(honest)) < 3 * np.std(honest) / np.sqrt(len(honest))


def test_the_next_cycle_measures_a_promoted_policy_without_the_winners_curse(fresh: list[list[Cycle]]) -> None:
    own, next_ = [], []
    for cycles in fresh:
        for cycle, later in pairwise(cycles):
            if cycle.promoted:
                own.append(cycle.candidate)
                next_.append(later.current)
    assert len(own) > 40
    assert np.mean(own) > SALES + 0.02
    assert np.mean(next_) == pytest.approx(SALES, abs=3 * np.std(next_) / np.sqrt(len(next_)))
