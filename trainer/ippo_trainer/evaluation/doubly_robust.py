"""The value of a policy from the log of others whose probabilities are known: doubly robust.

The estimate of fitted Q evaluation is corrected by what the log shows of it, weighted by how much likelier the policy
would have said what was said (weighted doubly robust: Thomas and Brunskill 2016, equation 10; doubly robust: Jiang and
Li 2016). It is consistent if the probabilities are right and whoever drew could have said all that the policy may say,
however wrong Q is, and has little noise where Q is good.
Q is read of conversations that it was not fitted to.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ippo_trainer.evaluation.off_policy import EvaluatedTurns, block_sums, blocks_of, coefficients_of, jackknifed
from ippo_trainer.stats.intervals import Interval


@dataclass(frozen=True, slots=True)
class DoublyRobust:
    """Of several policies, in the order given."""

    values: list[Interval]
    lifts: list[Interval]
    """What each is more than the last one."""
    effective: list[float]
    """So many conversations of the policy's own the weighted ones are worth: (sum w)^2 / sum w^2 (Kish 1965)."""


def cautious(fitted: list[Interval], robust: list[Interval]) -> list[Interval]:
    """Estimates of fitted Q evaluation, with intervals that are wider by how far the doubly robust ones are from them.

    Features that cannot tell suggestions apart pull fitted Q evaluation towards the writers' value, and no resampling
    of conversations shows it. Weights show it, and are few where the policy says what the writers seldom said. So the
    difference of the two estimates stands for an error beside that of the sample: half-widths are joined as roots of
    sums of squares. Where the doubly robust interval excludes the estimate, the interval holds that one whole.
    """
    return [_wider(one, other) for one, other in zip(fitted, robust, strict=True)]


def _wider(one: Interval, other: Interval) -> Interval:
    error = other.estimate - one.estimate
    low, high = (math.hypot(end - one.estimate, error) for end in (one.low, one.high))
    wide = Interval(one.estimate, one.estimate - low, one.estimate + high)
    if other.low <= one.estimate <= other.high:
        return wide
    return Interval(one.estimate, min(wide.low, other.low), max(wide.high, other.high))


@dataclass(frozen=True, slots=True)
class _Trajectories:
    """By turn and conversation (T, C); zero after the end."""

    log_weights: Tensor
    """Of the conversation up to the turn; after its end as at its end."""
    before: Tensor
    """Of the conversation before the turn."""
    surprise: Tensor
    """discount^t (outcome - Q)."""
    expectation: Tensor
    """discount^t V."""


def doubly_robust(
    turns: EvaluatedTurns,
    policies: Sequence[Tensor],
    log_ratios: Sequence[Tensor],
    discount: float,
    penalty: float,
    confidence: float = 0.95,
) -> DoublyRobust:
    """Weighted doubly robust values of policies, with intervals by conversation.

    Args:
        turns: of a log.
        policies: (n, P) each, mean features of the row's state and a policy's own suggestions there.
        log_ratios: (n,) each, log of the policy's probability of the logged suggestion less that of who drew it.
        discount: per turn.
        penalty: as `off_policy.policy_values`.
        confidence: two-sided level.

    Raises:
        BadDataError: fewer than two conversations, or equations without a single solution.
    """
    blocks, number = blocks_of(turns), turns.conversation
    block = number % blocks
    columns = torch.arange(int(number.max()) + 1) % blocks
    whole, without, sizes = [], [], []
    for policy, log_ratio in zip(policies, log_ratios, strict=True):
        readings = _cross_fitted(turns, policy, discount, block, blocks, penalty)
        paths = _trajectories(turns, *readings, log_ratio.double(), discount)
        everything = torch.ones(len(columns), dtype=torch.bool)
        whole.append(_value(paths, everything))
        without.append(torch.stack([_value(paths, columns != each) for each in range(blocks)]))
        weights = paths.log_weights[-1].softmax(0)
        sizes.append(float(1.0 / weights.square().sum()))
    values, lifts = jackknifed(torch.stack(whole), torch.stack(without), confidence)
    return DoublyRobust(values, lifts, sizes)


def _cross_fitted(
    turns: EvaluatedTurns, policy: Tensor, discount: float, block: Tensor, blocks: int, penalty: float
) -> tuple[Tensor, Tensor]:
    """(n,) Q of the logged suggestion and V, each fitted without the turn's own block."""
    sums = block_sums(turns, policy, discount, block, blocks)
    q, v = torch.zeros(len(block), dtype=torch.double), torch.zeros(len(block), dtype=torch.double)
    for number in range(blocks):
        rows, coefficients = block == number, coefficients_of(sums, number, penalty)
        q[rows], v[rows] = turns.logged[rows].double() @ coefficients, policy[rows].double() @ coefficients
    return q, v


def _trajectories(turns: EvaluatedTurns, q: Tensor, v: Tensor, log_ratio: Tensor, discount: float) -> _Trajectories:
    number = turns.conversation
    start = torch.nonzero(turns.first)[:, 0]
    turn = torch.arange(len(number)) - start[number]
    length, count = int(turn.max()) + 1, len(start)
    # After its end a conversation keeps its weight: all of them share in every turn's sum.
    base = turns.start[start].double().log()
    steps = torch.zeros(length, count, dtype=torch.double)
    steps[turn, number] = log_ratio
    log_weights = base + steps.cumsum(0)
    before = torch.cat([base.unsqueeze(0), log_weights[:-1]])
    surprise, expectation = torch.zeros_like(steps), torch.zeros_like(steps)
    discounts = discount ** turn.double()
    surprise[turn, number] = discounts * (turns.outcome.double() - q)
    expectation[turn, number] = discounts * v
    return _Trajectories(log_weights, before, surprise, expectation)


def _value(paths: _Trajectories, kept: Tensor) -> Tensor:
    """Over some of the conversations; weights sum to 1 at every turn."""
    now, before = (weights[:, kept].softmax(1) for weights in (paths.log_weights, paths.before))
    value: Tensor = (now * paths.surprise[:, kept] + before * paths.expectation[:, kept]).sum()
    return value
