"""The events of a conversation, in whatever order they came, as what they add up to.

Gateways' clocks count, and may differ by some seconds. A client's `at` lies neither in the gateway's future nor before
what it is about.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.logs import conversation_of
from ippo_trainer.data.reaction_file import ReactionRow
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.data.server_log import PERSONA, Served, state_of
from ippo_trainer.live.events import CLOSE, COMPLAINT, ERASED, OUTCOME, REACTION, SUGGESTION, UNANSWERED, Event
from ippo_trainer.live.standing import Course, Rules, Statement

LATE = "reactions that came after their conversation was over"
ASTRAY = "reactions to suggestions that nobody logged"
UNASKED = "conversations that were reported on, but for which nobody logged a suggestion"
CORRECTED = "reactions that were corrected"
SILENT = "conversations whose last suggestion nobody reacted to"
SKEWED = "events with a wrong time"
UNNAMED = "suggestions whose requests did not name the conversation that they belong to"
TOLERANCE = 5.0
"""Seconds by which clocks differ without a word."""


@dataclass(frozen=True)
class LiveConversation:
    """What the events of a conversation say; its customer's outcomes and complaints are not among them."""

    content: Conversation
    """Its turns, as those of any log. It has no outcome yet."""
    course: Course
    statements: tuple[Statement, ...]
    """Of its outcome."""
    complaint: bool
    persona: str
    """Of its first suggestion that had one; empty where none had."""
    seconds: tuple[float, ...]
    """That its suggestions took."""

    @property
    def digest(self) -> str:
        """Of the policy that began it; empty where none did."""
        return self.content.turns[0].policy_digest

    @property
    def handed(self) -> bool:
        """Whether another policy went on, or somebody else."""
        return any(turn.policy_digest != self.digest for turn in self.content.turns)

    @property
    def accepted(self) -> bool:
        """Whether every suggestion was sent as it was."""
        return all(turn.reaction == "accepted" for turn in self._shown() if turn.suggestion is not None)

    @property
    def abstained(self) -> bool:
        """Whether a policy suggested nothing."""
        return any(turn.suggestion is None and turn.policy_digest for turn in self._shown())

    def _shown(self) -> list[Turn]:
        return [turn.as_shown() for turn in self.content.turns]


def fold(
    name: str, others: Sequence[Event], suggestions: Iterable[Event], rules: Rules, counts: Counter[str]
) -> LiveConversation | None:
    """A conversation; None where there is nothing of it, or it was erased.

    Args:
        name: of the conversation.
        others: its events but for suggestions, each once.
        suggestions: each once, by turn and time; no more than the longest is kept.
        rules: of the run.
        counts: what a report of the data tells, by kind, is added.

    Raises:
        BadDataError: messages that no policy server answers.
    """
    if any(event["kind"] == ERASED for event in others):
        return None
    reactions = _Reactions([event for event in others if event["kind"] == REACTION])
    served, noted = Served(), _Noted()
    for event in suggestions:
        record = _record_of(event)
        if not record["named"] and record["turn"]:
            counts[UNNAMED] += 1
            continue
        noted.take(event, record)
        served.take(record, reactions.of(record), counts)
    if not noted.seconds:
        counts[UNASKED] += any(event["kind"] != UNANSWERED for event in others)
        return None
    content = conversation_of(served.line(name, counts), counts)
    course = _course(noted, reactions, others, rules)
    _count(others, course, counts)
    counts[LATE] += sum(at > course.last for at in reactions.times)
    counts[ASTRAY] += reactions.astray()
    counts[CORRECTED] += reactions.corrected
    counts[SILENT] += not any(each.row for each in served.suggestions[served.last[0]])
    statements = [
        Statement(event["time"], happened(event, course.began), event["outcome"])
        for event in others
        if event["kind"] in (OUTCOME, CLOSE) and event["outcome"] is not None
    ]
    complaint = any(event["kind"] == COMPLAINT for event in others)
    return LiveConversation(content, course, tuple(statements), complaint, noted.persona, tuple(noted.seconds))


def happened(event: Event, earliest: float) -> float:
    """When what a client reports was: not in the gateway's future, and not before the earliest time it can be."""
    return max(earliest, min(float(event["at"]), float(event["time"])))


def without_texts(event: Event) -> Event:
    """The event as far as outcomes, reactions and abstentions can be told from it: short digests stand for texts.

    What is folded of such events differs from the whole conversation in texts, tokens and contexts alone.
    """
    if event["kind"] == REACTION and event["sent"] is not None:
        return event | {"sent": _short(event["sent"])}
    if event["kind"] != SUGGESTION:
        return event
    record = event["suggestion"]
    texts = {
        "message": _short(record["message"]),
        "messages": _short_messages(record["messages"]),
        "context": "",
        "suggestion": None if record["suggestion"] is None else _short(record["suggestion"]),
        "token_ids": None,
        "logprobs": None,
    }
    return event | {"suggestion": record | texts}


def _short_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One for each side of each turn; none where no policy server answers them."""
    try:
        state = state_of(messages)
    except BadDataError:
        return []
    short: list[dict[str, Any]] = []
    for turn in state.history:
        suggestion = None if turn.suggestion is None else _short(turn.suggestion)
        said = {"content": _short(turn.sent_message), "suggestion": suggestion, "reaction": turn.reaction}
        short += [{"role": "user", "content": _short(turn.customer_message)}, {"role": "assistant", **said}]
    return [*short, {"role": "user", "content": _short(state.customer_message)}]


def _short(text: str) -> str:
    """Equal for equal texts. What is blank stays so: it is no message."""
    return blake2b(text.encode(), digest_size=8).hexdigest() if text.strip() else text


def _record_of(event: Event) -> dict[str, Any]:
    """The record of a policy server, with the gateway's times."""
    record: dict[str, Any] = event["suggestion"]
    times = {"started_at": event["time"] - event["seconds"], "time": event["time"]}
    return record | times | ({PERSONA: event["persona"]} if event["persona"] else {})


class _Noted:
    """What is kept of suggestions besides what they say."""

    def __init__(self) -> None:
        self.began, self.last = float("inf"), float("-inf")
        self.persona = ""
        self.seconds: list[float] = []

    def take(self, event: Event, record: dict[str, Any]) -> None:
        self.began = min(self.began, record["started_at"])
        self.last = max(self.last, record["time"])
        self.persona = self.persona or event["persona"]
        self.seconds.append(event["seconds"])


class _Reactions:
    """Reactions by the suggestion that they name, by its id or its turn; of several the last that came."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._by_name: dict[str | int, Event] = {}
        for event in sorted(events, key=lambda event: (event["time"], event["event_id"])):
            self._by_name[event["suggestion_id"] or event["turn"]] = event
        self.corrected = len(events) - len(self._by_name)
        self._met: set[str | int] = set()
        self.times: list[float] = []
        """When they were, of those whose suggestion was met."""

    def of(self, record: dict[str, Any]) -> ReactionRow | None:
        """That to a suggestion. Of several choices in an answer the first is the one that a client can name."""
        names: tuple[str | int, ...] = (record["id"], record["turn"]) if record["choice"] == 0 else (record["turn"],)
        name = next((name for name in names if name in self._by_name), None)
        if name is None:
            return None
        event = self._by_name[name]
        at = happened(event, record["time"])
        self._met.add(name)
        self.times.append(at)
        return ReactionRow(event["reaction"], event["sent"], True, at, 0)

    def astray(self) -> int:
        """Those whose suggestion was not met."""
        return len(self._by_name.keys() - self._met)


def _course(noted: _Noted, reactions: _Reactions, others: Sequence[Event], rules: Rules) -> Course:
    asked = max([noted.last, *(event["time"] for event in others if event["kind"] == UNANSWERED)])
    last = max([asked, *(at for at in reactions.times if at <= asked + rules.idle)])
    # A gateway whose clock is slow may take the close of what another one has just answered.
    closes = [event["time"] for event in others if event["kind"] == CLOSE and event["time"] >= asked - TOLERANCE]
    return Course(noted.began, last, max(asked, min(closes)) if closes else None)


def _count(others: Sequence[Event], course: Course, counts: Counter[str]) -> None:
    for event in others:
        if "at" in event:
            early = event["at"] < course.began - TOLERANCE
            counts[SKEWED] += early or event["at"] > event["time"] + TOLERANCE
