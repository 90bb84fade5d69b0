"""Conversations whose ends nobody saw: weights for the finished ones, and bounds.

Without the others, short conversations would count too much, and their outcomes differ from those of long ones. There
are two kinds. One was still open when it was logged: whether its last turn ended it is not known, so a conversation is
at risk of that after every turn, the last one too. Another is known to have gone on, as one that changed hands, so one
that ends with a turn was not at risk there. The weights are right if either risk depends on nothing but the number of
turns so far. The bounds assume nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ippo_trainer.data.schema import Conversation
from ippo_trainer.stats.intervals import Floats


@dataclass(frozen=True, slots=True)
class Censoring:
    """How likely conversations are cut off, by turn (discrete-time Kaplan-Meier estimate of the censoring)."""

    uncensored_share: Floats
    """(turns,) share of the conversations with so many turns of which is known whether they went on."""
    kept_share: Floats
    """(turns,) share of those that went on after so many turns that were not cut off there all the same."""
    unseen: float
    """Estimated share of all conversations whose ends no log shows, since every conversation of that length is
    censored. Weights cannot make up for them."""

    @staticmethod
    def of(conversations: Sequence[Conversation]) -> "Censoring":
        """Counted on conversations of one policy, the censored ones among them."""
        lengths = np.array([len(conversation.turns) for conversation in conversations], np.int64)
        censored = np.array([conversation.censored for conversation in conversations], bool)
        cut_on = np.array([conversation.went_on for conversation in conversations], bool)
        count = int(lengths.max(initial=0))
        at_risk, open_ends, cuts = (
            np.bincount(lengths[some], minlength=count + 1)[1:].astype(np.float64)
            for some in (slice(None), censored & ~cut_on, cut_on)
        )
        at_risk = at_risk[::-1].cumsum()[::-1]
        went_on = np.append(at_risk[1:], 0.0) + cuts
        plain = Censoring(1.0 - open_ends / np.maximum(at_risk, 1.0), 1.0 - cuts / np.maximum(went_on, 1.0), 0.0)
        if not censored.any():
            return plain
        observed = sum(
            plain.weight(len(conversation.turns)) for conversation in conversations if not conversation.censored
        )
        unseen = 1.0 - observed / max(1, len(conversations))
        return Censoring(plain.uncensored_share, plain.kept_share, unseen if unseen > 1e-9 else 0.0)

    def weight(self, turns: int, first: int = 0) -> float:
        """Inverse probability that a conversation that ended after `turns` turns was not cut off since turn `first`."""
        uncensored = np.prod(self.uncensored_share[first:turns])
        return float(1.0 / (uncensored * np.prod(self.kept_share[first : max(first, turns - 1)])))

    def weights(self, conversations: Sequence[Conversation]) -> Floats:
        """(n,) of whole conversations; 0 for those that are censored. Their mean is 1 less `unseen`."""
        return np.array(
            [0.0 if conversation.censored else self.weight(len(conversation.turns)) for conversation in conversations]
        )


@dataclass(frozen=True, slots=True)
class OutcomeBounds:
    """The least and the most that a mean over all conversations can be, whatever became of the open ones (Manski)."""

    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """`{"low", "high"}`."""
        return {"low": self.low, "high": self.high}

    def less(self, other: "OutcomeBounds") -> "OutcomeBounds":
        """Of the difference to another mean."""
        return OutcomeBounds(self.low - other.high, self.high - other.low)


UNCENSORED = Censoring(np.ones(0), np.ones(0), 0.0)
"""Nothing is cut off: every weight is 1."""


def outcome_bounds(conversations: Sequence[Conversation], discount: float = 1.0) -> OutcomeBounds:
    """Of the mean discounted outcome; at `discount` 1 of the share with the outcome.

    At worst an open conversation has no outcome, at best it has it right after its last turn.
    """
    best = np.array([discount ** max(0, len(conversation.turns) - 1) for conversation in conversations])
    sure = np.array([conversation.outcome for conversation in conversations])
    still_open = np.array([conversation.censored for conversation in conversations])
    return OutcomeBounds(float(np.mean(best * sure)), float(np.mean(best * (sure | still_open))))
