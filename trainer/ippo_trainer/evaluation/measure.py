"""What conversations say about the policy that held them, with intervals by conversation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ippo_trainer.data.censoring import Censoring, OutcomeBounds, outcome_bounds
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.stats.intervals import Floats, Interval, ratio_interval, share_interval, weighted_difference


@dataclass(frozen=True)
class Measurement:
    """A policy's figures. Shares of suggestions leave abstentions out; None where there was nothing to count.

    Success and value weight the conversations with a known end by turn (`data.censoring`); the rest counts every turn.
    """

    conversations: int
    """With a known outcome."""
    censored: int
    """Without one."""
    unseen: float
    """See `Censoring`: what the weights cannot make up for."""
    success: Interval
    """Share of conversations with the outcome."""
    value: Interval
    """Mean discounted outcome per conversation."""
    success_bounds: OutcomeBounds
    """Of the share among all, whatever became of the censored ones."""
    value_bounds: OutcomeBounds
    """Of the mean discounted outcome."""
    acceptance: Interval | None
    """Share of suggestions that the business accepted verbatim or edited."""
    edited: float | None
    """Share of suggestions that the business edited."""
    abstention: Interval
    """Share of turns without a suggestion."""
    length: Interval | None
    """Tokens per turn's output, the stop token included, where they are known."""

    def to_json(self) -> dict[str, Any]:
        """The figures as they are kept in `metrics.json`."""
        return {
            "conversations": self.conversations,
            "censored": self.censored,
            "unseen": self.unseen,
            "success": self.success.to_json(),
            "value": self.value.to_json(),
            "successBounds": self.success_bounds.to_json(),
            "valueBounds": self.value_bounds.to_json(),
            "acceptance": self.acceptance.to_json() if self.acceptance else None,
            "edited": self.edited,
            "rejected": 1.0 - self.acceptance.estimate if self.acceptance else None,
            "abstention": self.abstention.to_json(),
            "length": self.length.to_json() if self.length else None,
        }


def outcomes(conversations: Sequence[Conversation]) -> Floats:
    """(n,) 1 where the outcome came."""
    return np.array([float(each.outcome) for each in conversations])


def values(conversations: Sequence[Conversation], discount: float) -> Floats:
    """(n,) discounted outcome from the start of each conversation: discount^(turns before it, less the last of them);
    0 for one without a turn, or without a known end."""
    return np.array([_discounted_outcome(each, discount) for each in conversations])


def _discounted_outcome(conversation: Conversation, discount: float) -> float:
    turns = conversation.turns
    before = next((index for index, turn in enumerate(turns) if turn.outcome), len(turns))
    return discount ** (before - 1) if conversation.outcome and before and not conversation.censored else 0.0


def measure(conversations: Sequence[Conversation], discount: float, confidence: float) -> Measurement:
    """Measures conversations of one policy.

    Args:
        conversations: at least two with a known end.
        discount: per turn.
        confidence: two-sided level of the intervals.
    """
    turns = np.array([len(each.turns) for each in conversations], np.float64)
    suggestions = _count(conversations, lambda turn: turn.suggestion is not None)
    displays = _count(conversations, _shown)
    censoring = Censoring.of(conversations)
    weights = censoring.weights(conversations)
    ended = np.flatnonzero(weights)
    return Measurement(
        conversations=len(ended),
        censored=len(conversations) - len(ended),
        unseen=censoring.unseen,
        success=share_interval((weights * outcomes(conversations))[ended], weights[ended], confidence),
        value=share_interval((weights * values(conversations, discount))[ended], weights[ended], confidence),
        success_bounds=outcome_bounds(conversations),
        value_bounds=outcome_bounds(conversations, discount),
        acceptance=share_interval(displays - _reacted(conversations, "rejected"), displays, confidence)
        if displays.any()
        else None,
        edited=float(_reacted(conversations, "edited").sum() / displays.sum()) if displays.any() else None,
        abstention=share_interval(turns - suggestions, turns, confidence),
        length=_length(conversations, confidence),
    )


def lift(
    candidate: Sequence[Conversation], current: Sequence[Conversation], metric: str, discount: float, confidence: float
) -> Interval:
    """Candidate minus current policy over pairs of conversations with the same seed.

    Args:
        candidate, current: in the same order of seeds; of either, censored conversations are made up for by weights.
        metric: `Value` or `Success`.
        discount: per turn.
        confidence: two-sided level.
    """
    sides = (candidate, current)
    first, second = (values(side, discount) if metric == "Value" else outcomes(side) for side in sides)
    first_weights, second_weights = (Censoring.of(side).weights(side) for side in sides)
    return weighted_difference(first, second, first_weights, second_weights, confidence)


def lift_outcome_bounds(candidate: Measurement, current: Measurement, metric: str) -> OutcomeBounds:
    """The least and the most that the lift over these customers can be, whatever became of the censored ones."""
    if metric == "Value":
        return candidate.value_bounds.less(current.value_bounds)
    return candidate.success_bounds.less(current.success_bounds)


def _shown(turn: Turn) -> bool:
    """Whether there was a suggestion that the business could react to."""
    return turn.as_shown().suggestion is not None


def _count(conversations: Sequence[Conversation], predicate: Callable[[Turn], bool]) -> Floats:
    """(n,) turns of each conversation for which `predicate` holds."""
    return np.array([sum(map(predicate, each.turns)) for each in conversations], np.float64)


def _reacted(conversations: Sequence[Conversation], reaction: str) -> Floats:
    """(n,) suggestions of each conversation that met this reaction."""
    return _count(conversations, lambda turn: _shown(turn) and turn.reaction == reaction)


def _length(conversations: Sequence[Conversation], confidence: float) -> Interval | None:
    sizes = [[len(turn.token_ids) for turn in each.turns if turn.token_ids] for each in conversations]
    counts = np.array([len(row) for row in sizes], np.float64)
    if not counts.any():
        return None
    return ratio_interval(np.array([sum(row) for row in sizes], np.float64), counts, confidence)
