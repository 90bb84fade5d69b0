"""The value of a policy that nobody deployed, from logged turns: fitted Q evaluation with an interval by conversation.

On frozen features phi(s, a) the fixed point of fitted Q evaluation is linear: w solves sum phi (phi - discount
phi'_pi)' w = sum phi outcome, where phi'_pi is the mean of phi at the next state over the policy's own suggestions
(LSTD-Q: Lagoudakis and Parr 2003; fitted Q evaluation: Le, Voloshin and Yue 2019). The value is the mean of phi_pi' w
over first states, weighted by the inverse probability that the log shows the conversation's end. Sums over blocks of
conversations are kept, so that the jackknife leaves one block out at a time without a second pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.models.last_layer import LastLayer
from ippo_trainer.stats.intervals import Interval, difference_interval, logit_interval
from ippo_trainer.stats.student import two_sided_quantile

BLOCKS = 50
"""Of conversations, left out one at a time."""
_LEAST_SPREAD = 1e-300
"""Variance below which a correlation is none: of estimates that no block changes."""


@dataclass(frozen=True, slots=True)
class EvaluatedTurns:
    """Logged turns, one a row (n); those of a conversation follow one another."""

    logged: Tensor
    """(n, P) float64 features of state and logged suggestion; column 0 is constant."""
    first: Tensor
    """(n,) bool: the conversation begins with this turn."""
    last: Tensor
    """(n,) bool: it ends with this turn."""
    outcome: Tensor
    """(n,) reward of the turn; 0 before the last one."""
    weight: Tensor
    """(n,) of the turn; 0 leaves it out."""
    start: Tensor
    """(n,) of the turn's conversation, among all that began."""
    conversation: Tensor
    """(n,) int64 number of the conversation from 0 on."""

    def part(self, policies: Sequence[Tensor], numbers: Sequence[int]) -> tuple["EvaluatedTurns", list[Tensor]]:
        """Turns of some conversations, numbered anew, and their rows of (n, P) features of policies."""
        kept = torch.isin(self.conversation, torch.tensor(numbers, dtype=self.conversation.dtype))
        columns = {field.name: getattr(self, field.name)[kept] for field in fields(self)}
        columns["conversation"] = torch.unique(columns["conversation"], return_inverse=True)[1]
        return EvaluatedTurns(**columns), [policy[kept] for policy in policies]


@dataclass(frozen=True, slots=True)
class BlockSums:
    """By block (B, …): of the equations' left and right sides, and of first states."""

    left: Tensor
    right: Tensor
    starts: Tensor
    count: Tensor


def pair_features(layer: LastLayer, states: Tensor, actions: Tensor) -> Tensor:
    """(n, 1 + 2 rank + rank^2) of leading components and their products; linear in the actions, so that the features of
    a mean are the mean of the features.

    Args:
        layer: that spans the features.
        states, actions: (n, D) and (n, A) features of the trunk.
    """
    s, a = layer.states.components(states), layer.actions.components(actions)
    products = (s.unsqueeze(2) * a.unsqueeze(1)).flatten(1)
    return torch.cat([torch.ones_like(s[:, :1]), s, a, products], 1)


def policy_values(
    turns: EvaluatedTurns, policies: Sequence[Tensor], discount: float, penalty: float, confidence: float = 0.95
) -> tuple[list[Interval], list[Interval]]:
    """Values of policies, and what each is more than the last one, with intervals by conversation.

    Args:
        turns: of a log, whoever wrote it.
        policies: (n, P) each, mean features of the row's state and a policy's own suggestions there.
        discount: per turn.
        penalty: ridge on squared coefficients, the constant's excepted, in turns.
        confidence: two-sided level.

    Raises:
        BadDataError: fewer than two conversations, or equations without a single solution.
    """
    number, blocks = turns.conversation, blocks_of(turns)
    sums = [block_sums(turns, policy, discount, number % blocks, blocks) for policy in policies]
    whole = torch.stack([_value(each, None, penalty) for each in sums])
    without = torch.stack([torch.stack([_value(each, block, penalty) for block in range(blocks)]) for each in sums])
    return jackknifed(whole, without, confidence)


def blocks_of(turns: EvaluatedTurns) -> int:
    """Into how many blocks the conversations are divided. Raises BadDataError if there are fewer than two."""
    blocks = min(BLOCKS, int(turns.conversation.max()) + 1)
    if blocks < 2:
        raise BadDataError("one conversation is too few to estimate a value from", "Log more conversations.")
    return blocks


def jackknifed(whole: Tensor, without: Tensor, confidence: float) -> tuple[list[Interval], list[Interval]]:
    """Intervals of values, and of what each is more than the last one, by the delete-a-block jackknife.

    Values are shares of conversations, mostly small ones: their intervals are those of shares.

    Args:
        whole: (P,) values of policies.
        without: (P, B) without each block.
        confidence: two-sided level.
    """
    quantile = two_sided_quantile(confidence, without.shape[1] - 1)
    errors = without - without.mean(1, keepdim=True)
    blocks = without.shape[1]
    covariance = (blocks - 1) / blocks * errors @ errors.T  # the delete-a-block jackknife's (Shao and Wu 1989)
    spread = covariance.diagonal().sqrt()
    halves = quantile * spread
    values = [logit_interval(float(value), float(half)) for value, half in zip(whole, halves, strict=True)]
    correlations = covariance[:, -1] / (spread * spread[-1]).clamp_min(_LEAST_SPREAD)
    lifts = [
        difference_interval(value, values[-1], float(correlation))
        for value, correlation in zip(values, correlations, strict=True)
    ]
    return values, lifts


def block_sums(turns: EvaluatedTurns, policy: Tensor, discount: float, block: Tensor, blocks: int) -> BlockSums:
    """Of a policy's mean features (n, P), with the number of each turn's block (n,)."""
    following = torch.cat([policy[1:], torch.zeros_like(policy[:1])])
    going_on = (~turns.last).double().unsqueeze(1)
    weighted = turns.logged * turns.weight.double().unsqueeze(1)
    left, right, starts, count = [], [], [], []
    for number in range(blocks):
        rows = block == number
        difference = turns.logged[rows] - discount * going_on[rows] * following[rows]
        left.append(weighted[rows].T @ difference)
        right.append(weighted[rows].T @ turns.outcome[rows].double())
        begun = turns.start[rows & turns.first].double()
        starts.append(begun @ policy[rows & turns.first])
        count.append(begun.sum())
    return BlockSums(torch.stack(left), torch.stack(right), torch.stack(starts), torch.stack(count))


def _value(sums: BlockSums, block: int | None, penalty: float) -> Tensor:
    """Of all blocks but one."""
    starts, count = (part.sum(0) if block is None else part.sum(0) - part[block] for part in (sums.starts, sums.count))
    value: Tensor = starts @ coefficients_of(sums, block, penalty) / count
    return value


def coefficients_of(sums: BlockSums, block: int | None, penalty: float) -> Tensor:
    """(P,) of Q in the features, from all blocks but one. Raises BadDataError if there is no single solution."""
    left, right = (part.sum(0) if block is None else part.sum(0) - part[block] for part in (sums.left, sums.right))
    ridge = torch.full((len(left),), penalty, dtype=torch.double)
    ridge[0] = 0.0
    coefficients, failed = torch.linalg.solve_ex(left + ridge.diag(), right)
    if int(failed) or not bool(torch.isfinite(coefficients).all()):
        raise BadDataError(
            "the equations of the policy's value have no single solution",
            "Log more conversations.",
        )
    return torch.as_tensor(coefficients)
