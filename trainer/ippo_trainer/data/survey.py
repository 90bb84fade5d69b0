"""What a log holds and what is wrong with it, before a run is started from it."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.lines import one_line
from ippo_trainer.contract.params import FitQ
from ippo_trainer.data.logs import LogReader
from ippo_trainer.data.notices import of_clock, of_log, of_order
from ippo_trainer.data.outcomes import BEFORE, Outcomes, joined
from ippo_trainer.data.own import writer_of
from ippo_trainer.data.problems import ProblemKind, Problems
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.data.situations import Situations, digest

EXPLAINED = (0.05, 0.02, 0.01)
"""Shares of the variance of returns that suggestions may explain."""
MEASURED = 2000
"""Conversations whose lengths are measured, spread over the log."""
PERCENTILES = (50, 90, 99, 100)
_LEVEL, _POWER = 1.645, 0.842
"""Standard errors: fit-q asks for a slope above zero by an interval of level .9, and four fits of five shall pass."""
_RARE, _RARE_FACTOR = 0.1, 2.0
FUNNEL_TURNS = 12
"""Rows of the funnel; the last one is of all longer conversations, too."""
_NAMED, _LONGEST_NAME = 10, 80
_ENDS = ("won", "lost", "open")

Measure = Callable[[Conversation], tuple[int, list[int]]]
"""Conversation -> length of its longest prompt, and of each suggestion."""


def needed_conversations(explained: float, success: float) -> int:
    """Finished conversations until fit-q can tell Q from a constant.

    The slope of n held-out returns on a Q that is right is 1, with standard error 1 / sqrt(n explained). Rare outcomes
    have heavier tails, which take about twice as many.

    Args:
        explained: share of the variance of returns that Q explains, in (0, 1].
        success: share of the finished conversations with the outcome.
    """
    held = (_LEVEL + _POWER) ** 2 / explained
    return math.ceil(held / float(FitQ().holdout) * (_RARE_FACTOR if success < _RARE else 1.0))


@dataclass
class Survey:
    """Sums over the conversations of a log, in bounded memory but for eight bytes or so of each text."""

    counts: Counter[str] = field(default_factory=Counter)
    turns: Counter[str] = field(default_factory=Counter)
    writers: Counter[str] = field(default_factory=Counter)
    reached: Counter[int] = field(default_factory=Counter)
    ended: dict[str, Counter[int]] = field(default_factory=lambda: {name: Counter() for name in _ENDS})
    customers: Counter[str] = field(default_factory=Counter)
    first: float = math.inf
    last: float = 0.0
    without_time: int = 0
    prompts: list[int] = field(default_factory=list)
    suggestions: list[list[int]] = field(default_factory=list)
    """Of the same conversations as `prompts`."""
    situations: Situations = field(default_factory=Situations)
    _texts: set[int] = field(default_factory=set)
    _contexts: set[int] = field(default_factory=set)
    _suggestions: Counter[int] = field(default_factory=Counter)
    _openings: dict[int, set[int]] = field(default_factory=dict)

    def add(self, conversation: Conversation) -> None:
        """Takes the next conversation."""
        turns = conversation.turns
        end = "open" if conversation.censored else "won" if conversation.outcome else "lost"
        self.counts.update(["conversations", end])
        self.ended[end][min(len(turns), FUNNEL_TURNS)] += 1
        for number in range(1, min(len(turns), FUNNEL_TURNS) + 1):
            self.reached[number] += 1
        if conversation.customer_id:
            self.customers[conversation.customer_id] += 1
        if conversation.context:
            self.counts["withContext"] += 1
            self._contexts.add(digest(conversation.context))
        self.counts["withTools"] += any(turn.tool_messages for turn in turns)
        text = digest("\0".join(f"{turn.customer_message}\0{turn.sent_message}" for turn in turns))
        self.counts["alike"] += text in self._texts
        self._texts.add(text)
        for turn in turns:
            self._add_turn(turn)
        self.situations.add(turns)
        opening = self._openings.setdefault(digest(turns[0].customer_message), set())
        opening.add(digest(turns[0].suggestion or ""))

    def _add_turn(self, turn: Turn) -> None:
        self.writers[writer_of(turn)] += 1
        self.turns.update(["turns", turn.reaction if turn.suggestion is not None else "abstained"])
        self._suggestions[digest(turn.suggestion or "")] += 1
        times = [time for time in (turn.started_at, turn.ended_at) if time > 0]
        self.without_time += not times
        for time in times:
            self.first, self.last = min(self.first, time), max(self.last, time)

    def to_json(self) -> dict[str, Any]:
        """All figures."""
        counts = self.counts
        finished = counts["won"] + counts["lost"]
        success = counts["won"] / finished if finished else None
        top = self._suggestions.most_common(1)
        return {
            "conversations": counts["conversations"],
            "turns": self.turns["turns"],
            "outcomes": {name: counts[name] for name in _ENDS} | {"success": success},
            "reactions": {name: self.turns[name] for name in ("accepted", "edited", "rejected", "abstained")},
            "writers": {one_line(name, _LONGEST_NAME): count for name, count in self.writers.most_common(_NAMED)},
            "customers": {"named": len(self.customers), "most": max(self.customers.values(), default=0)},
            "times": {"first": self.first, "last": self.last, "without": self.without_time} if self.last else None,
            "contexts": {"conversations": counts["withContext"], "different": len(self._contexts)},
            "tools": counts["withTools"],
            "alike": counts["alike"],
            "suggestions": {"different": len(self._suggestions), "commonest": top[0][1] if top else 0},
            "openings": {
                "different": len(self._openings),
                "oneSuggestion": sum(len(suggestions) == 1 for suggestions in self._openings.values()),
            },
            "situations": self.situations.to_json(),
            "funnel": [
                {"turn": turn, "reached": self.reached[turn]} | {name: self.ended[name][turn] for name in _ENDS}
                for turn in sorted(self.reached)
            ],
            "lengths": self._lengths(),
            "needed": [
                {
                    "explained": share,
                    "conversations": (number := needed_conversations(share, success)),
                    "outcomes": math.ceil(number * success),
                }
                for share in EXPLAINED
                if success and counts["lost"]
            ],
        }

    def _lengths(self) -> dict[str, Any] | None:
        rows = {"longestPrompt": self.prompts, "suggestion": [size for each in self.suggestions for size in each]}
        if not all(rows.values()):  # nothing was measured, or nobody ever suggested anything
            return None
        return {name: {str(p): int(np.percentile(row, p)) for p in PERCENTILES} for name, row in rows.items()}


class Account:
    """A log as it is read: its conversations with their outcomes, and all that there is to say of them.

    Args:
        reader: of the log.
        outcomes: joined to it.
        reactions: what is worth a look in a file of reactions.
        now: seconds since 1970 UTC, to tell times in the future; None tells none.
    """

    def __init__(
        self,
        reader: LogReader,
        outcomes: Outcomes | None = None,
        reactions: Problems | None = None,
        now: float | None = None,
    ) -> None:
        self.reader, self._outcomes, self._now = reader, outcomes, now
        self.sums = Survey()
        name = reader.path.name
        self._whole, self._future = Problems(name), Problems(name)
        self._notices = [self._whole, reader.notices, *(each.notices for each in (outcomes,) if each)]
        self._notices += [] if reactions is None else [reactions]

    def conversations(self) -> Iterator[Conversation]:
        """Those that the reader has not had yet; what is wrong with others is in its problems."""
        for conversation in joined(self.reader, self._outcomes):
            self.sums.add(conversation)
            of_order(self.reader, conversation)
            if self._now is not None:
                of_clock(self._future, self.reader, conversation, self._now)
            yield conversation

    def close(self) -> None:
        """Adds what the log as a whole shows, once it is read to its end: problems to those of the reader."""
        reader, problems, read = self.reader, self.reader.problems, self.sums.counts["conversations"]
        if not reader.count and not problems.total:
            problems.add(reader.nothing())
        if self._outcomes is not None and reader.count:
            with problems.collecting():
                self._outcomes.check()
        if reader.count and not read and not problems.total:
            what = f"all {reader.omissions[BEFORE]} conversations of {reader.path.name} began after their outcome"
            problems.add(BadDataError(what, "Check the times of both files: units, and zones."))
        if read:
            of_log(self._whole, reader, self.sums.to_json())

    def notices(self) -> list[ProblemKind]:
        """What is worth a look though nothing is wrong, but for what depends on the clock."""
        return [kind for problems in self._notices for kind in problems.kinds()]

    def clock_notices(self) -> list[ProblemKind]:
        """Times in the future."""
        return self._future.kinds()

    def figures(self) -> dict[str, Any]:
        """All of it, but for `clock_notices`: the same log gives the same."""
        reader, figures = self.reader, self.sums.to_json()
        return {
            "file": reader.path.name,
            "bytes": reader.size,
            "problems": {"count": reader.problems.total, "kinds": _kinds(reader.problems.kinds(), "problem")},
            "notices": _kinds(self.notices(), "notice"),
            "leftOut": dict(sorted(reader.omissions.items())),
            "leftOutFirst": dict(sorted(reader.first.items())),
            "unread": dict(reader.unread.most_common(_NAMED)),
            **figures,
            "limits": suggested_limits(figures["lengths"]),
        }


def survey(
    reader: LogReader,
    outcomes: Outcomes | None = None,
    measure: Measure | None = None,
    done: Callable[[LogReader], object] = lambda reader: None,
    now: float | None = None,
    reactions: Problems | None = None,
) -> dict[str, Any]:
    """Reads a log to its end; what is wrong is part of the answer and not raised.

    Args:
        reader: of the log.
        outcomes: joined to it.
        measure: of lengths in tokens.
        done: is told how far the reader is.
        now: seconds since 1970 UTC, to tell times in the future.
        reactions: what is worth a look in a file of reactions.
    """
    account, every = Account(reader, outcomes, reactions, now), 1
    sums = account.sums
    for number, conversation in enumerate(account.conversations()):
        if measure is not None and number % every == 0:
            with reader.problems.collecting():
                prompt, suggestions = measure(conversation)
                sums.prompts.append(prompt)
                sums.suggestions.append(suggestions)
            if len(sums.prompts) >= 2 * MEASURED:  # half of them stand for the log as well
                sums.prompts, sums.suggestions = sums.prompts[::2], sums.suggestions[::2]
                every *= 2
        done(reader)
    account.close()
    figures = account.figures()
    figures["notices"] += _kinds(account.clock_notices(), "notice")
    return figures


def _kinds(kinds: Iterable[ProblemKind], name: str) -> list[dict[str, Any]]:
    return [{"count": each.count, "places": each.places, name: each.text} for each in kinds]


def suggested_limits(lengths: dict[str, Any] | None) -> dict[str, int] | None:
    """Limits of a manifest that cut few of the log's texts; None where nothing was measured.

    A suggestion in a hundred may be longer, and the longest prompt of a conversation in ten; powers of two, and half
    of them.
    """
    if lengths is None:
        return None
    return {
        "policy.maxNewTokens": _round_up(lengths["suggestion"]["99"] + 1, 16),
        "policy.maxPromptTokens": _round_up(lengths["longestPrompt"]["90"], 64),
    }


def _round_up(value: int, least: int) -> int:
    power = max(least, 1 << max(0, value - 1).bit_length())
    return power * 3 // 4 if power > least and value <= power * 3 // 4 else power
