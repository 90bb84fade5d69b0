"""What conversations say about the policy that held them, with intervals by conversation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ippo_trainer.data.returns import monte_carlo_returns
from ippo_trainer.data.schema import Conversation
from ippo_trainer.stats.intervals import (
    Floats,
    Interval,
    mean_share_interval,
    paired_difference,
    ratio_interval,
    share_interval,
)


@dataclass(frozen=True)
class Measurement:
    """A policy's figures. Shares of suggestions leave abstentions out; None where there was nothing to count."""

    conversations: int
    """With a known outcome."""
    success: Interval
    """Share of conversations with the outcome."""
    value: Interval
    """Mean discounted outcome per conversation."""
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
            "success": self.success.to_json(),
            "value": self.value.to_json(),
            "acceptance": self.acceptance.to_json() if self.acceptance else None,
            "edited": self.edited,
            "rejected": 1.0 - self.acceptance.estimate if self.acceptance else None,
            "abstention": self.abstention.to_json(),
            "length": self.length.to_json() if self.length else None,
        }


def outcomes(conversations: Sequence[Conversation]) -> Floats:
    """(n,) 1 where the outcome came."""
    return np.array([float(found.outcome) for found in conversations])


def values(conversations: Sequence[Conversation], discount: float) -> Floats:
    """(n,) discounted outcome from the start of each conversation; 0 for one without a turn."""
    return np.array([(monte_carlo_returns(found, discount) or [0.0])[0] for found in conversations])


def measure(conversations: Sequence[Conversation], discount: float, confidence: float) -> Measurement:
    """Measures conversations with known outcomes.

    Args:
        conversations: at least two, none censored.
        discount: per turn.
        confidence: two-sided level of the intervals.
    """
    turns = np.array([len(found.turns) for found in conversations], np.float64)
    made = np.array([sum(turn.suggestion is not None for turn in found.turns) for found in conversations], np.float64)
    return Measurement(
        conversations=len(conversations),
        success=mean_share_interval(outcomes(conversations), confidence),
        value=mean_share_interval(values(conversations, discount), confidence),
        acceptance=share_interval(made - _reacted(conversations, "rejected"), made, confidence) if made.any() else None,
        edited=float(_reacted(conversations, "edited").sum() / made.sum()) if made.any() else None,
        abstention=share_interval(turns - made, turns, confidence),
        length=_length(conversations, confidence),
    )


def lift(
    candidate: Sequence[Conversation], current: Sequence[Conversation], metric: str, discount: float, confidence: float
) -> Interval:
    """Candidate minus current policy over pairs of conversations with the same seed.

    Args:
        candidate, current: in the same order of seeds; a pair with a censored conversation is left out.
        metric: `Value` or `Success`.
        discount: per turn.
        confidence: two-sided level.
    """
    pairs = [(a, b) for a, b in zip(candidate, current, strict=True) if not (a.censored or b.censored)]
    sides = [[pair[0] for pair in pairs], [pair[1] for pair in pairs]]
    first, second = (values(side, discount) if metric == "Value" else outcomes(side) for side in sides)
    return paired_difference(first, second, confidence)


def _reacted(conversations: Sequence[Conversation], reaction: str) -> Floats:
    """(n,) suggestions of each conversation that met this reaction."""
    return np.array(
        [
            sum(turn.suggestion is not None and turn.reaction == reaction for turn in found.turns)
            for found in conversations
        ],
        np.float64,
    )


def _length(conversations: Sequence[Conversation], confidence: float) -> Interval | None:
    sizes = [[len(turn.token_ids) for turn in found.turns if turn.token_ids] for found in conversations]
    counts = np.array([len(row) for row in sizes], np.float64)
    if not counts.any():
        return None
    return ratio_interval(np.array([sum(row) for row in sizes], np.float64), counts, confidence)
