"""When a live conversation is over, and when its outcome is known: one answer for reports and for what is learnt.

It is over once it was closed, nothing happened in it for `idle`, or the outcome came. Then its outcome is known as soon
as somebody says it, or, since nobody did, so long after its last message as an outcome counts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ippo_trainer.contract.fields import window_seconds
from ippo_trainer.contract.live import Routes
from ippo_trainer.contract.params import Logged

NEVER = math.inf


@dataclass(frozen=True)
class Rules:
    """Of a run. Seconds."""

    idle: float
    """A conversation in which nothing happens for so long is over."""
    window: float
    """After the last message an outcome counts so long."""

    @classmethod
    def of(cls, section: Routes | Logged) -> "Rules":
        """Those of a manifest, or of what a gateway is told."""
        return cls(window_seconds(section.idle), window_seconds(section.outcome_window))


@dataclass(frozen=True, order=True)
class Statement:
    """What somebody said of the outcome. Seconds since 1970 UTC."""

    time: float
    """When the gateway took it."""
    at: float
    """When it happened."""
    outcome: bool


@dataclass(frozen=True)
class Course:
    """What happened in a conversation, without what was said. Seconds since 1970 UTC, by the gateways' clocks."""

    began: float
    """When the first request came."""
    last: float
    """Of its last message. A reaction later than `idle` after the suggestions is about one, and none itself."""
    closed: float | None = None
    """When it was closed; None where it was not, or where the customer wrote again."""


@dataclass(frozen=True)
class ConversationStanding:
    """From when on what is so; `NEVER` where it is not foreseen. Seconds since 1970 UTC."""

    over_at: float
    known_at: float
    outcome: bool
    """Once it is known."""
    outcome_at: float = NEVER
    """When it came: what was said later is past the end of the problem."""

    def over(self, now: float) -> bool:
        """Whether the conversation is over."""
        return now >= self.over_at

    def known(self, now: float) -> bool:
        """Whether its outcome is known; until then it is censored, no failure."""
        return now >= self.known_at


def counts(course: Course, at: float, rules: Rules) -> bool:
    """Whether an outcome at that time is the conversation's: not before it, and within the window after its end."""
    return course.began <= at <= course.last + rules.window


def standing(course: Course, statements: Sequence[Statement], rules: Rules) -> ConversationStanding:
    """How a conversation stands by what is known of it.

    Args:
        course: of the conversation.
        statements: what was said of its outcome; what does not count is passed over, and of the rest the latest counts:
            it corrects what was said before.
        rules: of the run.
    """
    over_at = course.last + rules.idle if course.closed is None else min(course.closed, course.last + rules.idle)
    said = max((each for each in statements if counts(course, each.at, rules)), default=None)
    if said is None:
        return ConversationStanding(over_at, max(over_at, course.last + rules.window), False)
    if said.outcome:
        return ConversationStanding(min(over_at, said.time), said.time, True, said.at)
    return ConversationStanding(over_at, max(over_at, said.time), False)
