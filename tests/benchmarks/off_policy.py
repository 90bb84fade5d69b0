"""Values of policies that nobody deployed, as a run without a simulator estimates them, against the exact ones.

Every log is of a funnel with tables of its own and one writer. Q is fitted as `fit-q` fits it; the candidate is the
writer tilted by that Q, by one nat. Both values, and what the candidate is more, are estimated from the held-out
conversations in the features of Q's trunk, as `evaluate` does, and solved exactly. Prints a row for each log, then how
many of the 95 % intervals hold the exact figure.

    python tests/benchmarks/off_policy.py
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ippo_trainer.contract.params import FitQ
from ippo_trainer.environments import problem as exact
from ippo_trainer.environments.problem import Policy
from ippo_trainer.environments.scoring import Trace
from ippo_trainer.evaluation.doubly_robust import cautious, doubly_robust
from ippo_trainer.evaluation.logged_features import LoggedFeatures
from ippo_trainer.evaluation.off_policy import policy_values
from ippo_trainer.qfit.exact import States, read_intents
from ippo_trainer.stages.unsimulated import SAMPLES, VALUE_PENALTY
from ippo_trainer.stats.intervals import Interval

sys.path.insert(0, str(Path(__file__).parent))
from known_writers import DISCOUNT, MAX_TOKENS, Fitted, Shop, fit, single_thread, worded

FIT = FitQ(epochs=6, trace_lambda="0.5", holdout="0.3")
"""More conversations to estimate from than by default."""
TILTED = 500
"""Conversations on whose states Q is asked about every intent."""
NATS = 1.0
"""Of the candidate, from its writer, by visited state."""
FIGURES = ("writer", "candidate", "lift")


@dataclass(frozen=True)
class Row:
    """Of one log, by `FIGURES`."""

    estimates: tuple[Interval, ...]
    exact: tuple[float, ...]

    @property
    def holds(self) -> list[bool]:
        """Whether each interval has the exact figure."""
        return [each.low <= value <= each.high for each, value in zip(self.estimates, self.exact, strict=True)]


def main() -> None:
    """Prints a row for each log, and how many intervals hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=int, default=20)
    parser.add_argument("--conversations", type=int, default=1500)
    given = parser.parse_args()
    single_thread()
    rows = []
    for seed in range(given.logs):
        rows.append(measure(seed, given.conversations))
        print(f"log {seed:2}: {told(rows[-1])}", flush=True)
    held = np.array([row.holds for row in rows]).sum(0)
    print(", ".join(f"{name} {count}" for name, count in zip(FIGURES, held, strict=True)), f"of {len(rows)} hold")


def told(row: Row) -> str:
    """A row as text."""
    return "; ".join(
        f"{name} {each.estimate:+.3f} ({each.low:+.3f} to {each.high:+.3f}), exactly {value:+.3f}"
        f"{'' if holds else ' MISSED'}"
        for name, each, value, holds in zip(FIGURES, row.estimates, row.exact, row.holds, strict=True)
    )


def measure(seed: int, conversations: int) -> Row:
    """Of the log of one seed."""
    shop = Shop(seed)
    [writer] = shop.writers(1)
    log = shop.log([writer], conversations, 0)
    fitted = fit(log, FIT, seed)
    policies = [candidate(shop, fitted, shop.policy(writer)), shop.policy(writer)]
    features = LoggedFeatures.of(fitted.model, fitted.held, fitted.renderer, fitted.censoring, MAX_TOKENS)
    rng, trace = np.random.default_rng([seed, 3]), shop.funnel.trace(fitted.held)
    means = [features.of_policy(suggestions(rng, fitted, policy, trace)) for policy in policies]
    said = np.arange(len(trace.action)), trace.action
    logged = [
        np.log([policy[turn][state] for turn, state in zip(trace.turn, trace.state, strict=True)])[said]
        for policy in policies
    ]
    ratios = [torch.from_numpy(each - logged[-1]) for each in logged]
    values, lifts = policy_values(features.turns, means, DISCOUNT, VALUE_PENALTY)
    robust = doubly_robust(features.turns, means, ratios, DISCOUNT, VALUE_PENALTY)
    values, lifts = cautious(values, robust.values), cautious(lifts, robust.lifts)
    new, old = (exact.evaluate(shop.funnel.problem, policy, DISCOUNT).value for policy in policies)
    return Row((values[1], values[0], lifts[0]), (old, new, new - old))


def candidate(shop: Shop, fitted: Fitted, writer: Policy) -> Policy:
    """The writer tilted by Q as it was fitted, where training conversations have been; elsewhere the writer.

    It is the policy that MPO imitates, and it is known in every state, since Q's readings are averaged over a state.
    """
    asked = fitted.train[:TILTED]
    trace, states = shop.funnel.trace(asked), States(asked, [])
    _, read, _ = read_intents(fitted.model, fitted.renderer, shop.funnel, states, MAX_TOKENS)
    sums = [np.zeros_like(table) for table in writer]
    visits = [np.zeros(len(table)) for table in writer]
    for turn in range(len(writer)):
        here = trace.turn == turn
        np.add.at(sums[turn], trace.state[here], read[here])
        np.add.at(visits[turn], trace.state[here], 1)
    q = [total / np.maximum(count, 1)[:, None] for total, count in zip(sums, visits, strict=True)]
    low, high = 1e-4, 10.0
    for _ in range(40):  # the larger eta, the less it moves
        eta = float(np.sqrt(low * high))
        low, high = (eta, high) if _moved(tilted(writer, q, visits, eta), writer, visits) > NATS else (low, eta)
    return tilted(writer, q, visits, high)


def tilted(writer: Policy, q: Policy, visits: Sequence[np.ndarray], eta: float) -> Policy:
    """pi proportional to the writer's times exp(Q / eta), where there were visits."""
    result = []
    for table, values, count in zip(writer, q, visits, strict=True):
        weights = table * np.exp((values - values.max(1, keepdims=True)) / eta)
        result.append(np.where(count[:, None] > 0, weights / weights.sum(1, keepdims=True), table))
    return result


def _moved(policy: Policy, writer: Policy, visits: Sequence[np.ndarray]) -> float:
    """KL from the writer in nats, the mean over visited turns."""
    nats = [
        (np.where(new > 0, new * np.log(np.maximum(new, 1e-300) / old), 0.0).sum(1) * count).sum()
        for new, old, count in zip(policy, writer, visits, strict=True)
    ]
    return float(sum(nats) / sum(count.sum() for count in visits))


def suggestions(rng: np.random.Generator, fitted: Fitted, policy: Policy, trace: Trace) -> list[list[list[int]]]:
    """By held-out turn, what a policy draws there."""
    drawn = []
    for turn, state in zip(trace.turn, trace.state, strict=True):
        shares = policy[turn][state]
        intents = rng.choice(len(shares), size=SAMPLES, p=shares)
        drawn.append([fitted.renderer.response(worded(rng, int(intent))) for intent in intents])
    return drawn


if __name__ == "__main__":
    main()
