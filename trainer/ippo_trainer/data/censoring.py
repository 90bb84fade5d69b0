"""What conversations that were still open when they were logged can tell: weights where they can, bounds anyhow.

To drop them is to favour short conversations, and those end otherwise than long ones. The weights are right if being
cut off after a turn says nothing more about the end than that so many turns were held; the bounds assume nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ippo_trainer.data.schema import Conversation
from ippo_trainer.stats.intervals import Floats


@dataclass(frozen=True, slots=True)
class Censoring:
    """How likely conversations are cut off, by turn (discrete-time Kaplan-Meier estimate of the censoring)."""

    kept: Floats
    """(turns,) share of the conversations with so many turns that were not cut off after that one."""
    unseen: float
    """Share of all conversations, by estimate, whose ends nobody saw: all that came so far were cut off. Weights
    cannot make up for them."""

    @staticmethod
    def of(conversations: Sequence[Conversation]) -> "Censoring":
        """Counted on conversations of one policy, the censored ones among them."""
        lengths = np.array([len(found.turns) for found in conversations], np.int64)
        cut = np.array([found.censored for found in conversations], bool)
        count = int(lengths.max(initial=0))
        at_risk = np.bincount(lengths, minlength=count + 1)[::-1].cumsum()[::-1][1:].astype(np.float64)
        cuts = np.bincount(lengths[cut], minlength=count + 1)[1:]
        plain = Censoring(1.0 - cuts / np.maximum(at_risk, 1.0), 0.0)
        if not cut.any():
            return plain
        observed = sum(plain.weight(len(found.turns)) for found in conversations if not found.censored)
        unseen = 1.0 - observed / max(1, len(conversations))
        return Censoring(plain.kept, unseen if unseen > 1e-9 else 0.0)

    def weight(self, turns: int, first: int = 0) -> float:
        """Inverse probability that a conversation that ended after `turns` turns was not cut off since turn `first`."""
        return float(1.0 / np.prod(self.kept[first:turns]))

    def weights(self, conversations: Sequence[Conversation]) -> Floats:
        """(n,) of whole conversations; 0 for those that are censored. Their mean is 1 less `unseen`."""
        return np.array([0.0 if found.censored else self.weight(len(found.turns)) for found in conversations])


@dataclass(frozen=True, slots=True)
class Bounds:
    """The least and the most that a mean over all conversations can be, whatever became of the open ones (Manski)."""

    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """`{"low", "high"}`."""
        return {"low": self.low, "high": self.high}

    def less(self, other: "Bounds") -> "Bounds":
        """Of the difference to another mean."""
        return Bounds(self.low - other.high, self.high - other.low)


UNCENSORED = Censoring(np.ones(0), 0.0)
"""Nothing is cut off: every weight is 1."""


def outcome_bounds(conversations: Sequence[Conversation], discount: float = 1.0) -> Bounds:
    """Of the mean discounted outcome; at `discount` 1 of the share with the outcome.

    At worst an open conversation has no outcome, at best it has it right after its last turn.
    """
    best = np.array([discount ** max(0, len(found.turns) - 1) for found in conversations])
    sure = np.array([found.outcome for found in conversations])
    open_ = np.array([found.censored for found in conversations])
    return Bounds(float(np.mean(best * sure)), float(np.mean(best * (sure | open_))))
