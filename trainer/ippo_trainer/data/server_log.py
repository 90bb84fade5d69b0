"""What servers logged (`ippo-serve --log`), made one chat log of, which the rest reads as any other.

A folder holds segments of JSON lines; a line is a suggestion. The same line may come twice, a request may have been
made again, and what became of a suggestion shows in the conversation's next request, or in a file of reactions.
"""

import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.context import CONTEXT
from ippo_trainer.data.json_lines import UNREADABLE
from ippo_trainer.data.messages import EXPLORED, is_text, read_state, show
from ippo_trainer.data.reaction_file import ReactionRow, Reactions
from ippo_trainer.data.schema import State, Turn

SEGMENT_NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]+-[0-9]+\.jsonl\.gz")
"""Of a segment, without its folder."""
FORMAT = 1
PERSONA = "persona"
"""Of a suggestion that a gateway logged and that is not the policy's as it is: who explored."""
_PART_BYTES = 64 << 20
"""Of JSON, about: what is grouped in memory at once."""
_MOST_PARTS = 256
_EXPANSION = 8
"""By which segments grow when they are unpacked, about."""
_NAMES = ("id", "conversation_id", "message", "policy_digest")
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys((*_NAMES, "customer_id", "group"), (str,)),
    **dict.fromkeys(("choice", "turn"), (int,)),
    **dict.fromkeys(("started_at", "time"), (int, float)),
    "named": (bool,),
    "messages": (list,),
    "suggestion": (str, NoneType),
    "token_ids": (list, NoneType),
    "logprobs": (list, NoneType),
}
"""Fields that are read, beside `version` and `context`."""
_NEVER = 1e12
"""Seconds since 1970; later there is no time."""
_MOST_ALIKE = 16
"""Suggestions for one turn that are looked at."""
_SAMPLED = {"token_ids": "token_ids", "sampler_logprobs": "logprobs", "policy_digest": "policy_digest"}
"""Fields of a message of a chat log, and of a line, that say how a suggestion was drawn."""


def segments_in(directory: Path) -> list[Path]:
    """The segments in a folder and below it, by name."""
    return sorted(path for path in directory.rglob("*.jsonl.gz") if SEGMENT_NAME.fullmatch(path.name))


def is_segment(key: str) -> bool:
    """Whether an object of a store is a segment."""
    return SEGMENT_NAME.fullmatch(key.rpartition("/")[2]) is not None


@dataclass(slots=True)
class _Suggestion:
    """A line, without the messages that led to it."""

    id: str
    choice: int
    message: str
    text: str | None
    sampled: dict[str, Any]
    started_at: float
    time: float
    row: ReactionRow | None = None


@dataclass
class Served:
    """What was logged of one conversation: the longest history, and the suggestions by turn."""

    last: tuple[int, float] = (-1, 0.0)
    messages: list[dict[str, Any]] = field(default_factory=list)
    customer: str = ""
    group: str = ""
    context: str = ""
    suggestions: dict[int, list[_Suggestion]] = field(default_factory=dict)

    def take(self, record: dict[str, Any], row: ReactionRow | None, left_out: Counter[str]) -> None:
        """Takes a suggestion.

        Args:
            record: a line of the log; of what a gateway logged it may have a `PERSONA`.
            row: what became of it, if somebody said so.
            left_out: counts suggestions that nothing became of, by kind.
        """
        turn = record["turn"]
        if (turn, record["time"]) >= self.last:
            self.last, self.messages = (turn, record["time"]), record["messages"]
            self.customer = record["customer_id"] or self.customer
            self.group = record["group"] or self.group
            self.context = record.get("context") or ""
        sampled = {name: record[key] for name, key in _SAMPLED.items()}
        alike = self.suggestions.setdefault(turn, [])
        alike.append(
            _Suggestion(
                record["id"],
                record["choice"],
                record["message"],
                record["suggestion"],
                sampled | ({EXPLORED: True, "writer": record[PERSONA]} if record.get(PERSONA) else {}),
                record["started_at"],
                record["time"],
                row,
            )
        )
        alike.sort(key=lambda each: (each.row is not None, each.time, -each.choice, each.id))
        if len(alike) > _MOST_ALIKE:
            del alike[0]
            left_out["suggestions that were made again"] += 1

    def line(self, name: str, left_out: Counter[str]) -> dict[str, Any]:
        """The conversation of a chat log: what the last request says of it, and the suggestion that it was made for.

        Raises:
            BadDataError: messages that no server answers.
        """
        history, message, tools, _ = state_of(self.messages)
        messages: list[dict[str, Any]] = []
        for number, turn in enumerate(history):
            messages += _of_history(turn, self.suggestions.get(number, []), left_out)
        messages += _of_last(message, tools, self.suggestions[self.last[0]], left_out)
        line: dict[str, Any] = {"conversation_id": name, "messages": messages}
        line |= {"customer_id": self.customer} if self.customer else {}
        line |= {"group": self.group} if self.group else {}
        return line | ({CONTEXT: self.context} if self.context else {})


def write_served(
    segments: Iterable[Path], target: Path, work: Path, reactions: Reactions | None = None
) -> Counter[str]:
    """Writes a chat log of JSON lines, by conversation; returns what is left out of it, by kind.

    The log depends on the lines alone, not on which segments hold them and how often. Its memory is bounded but for the
    rows of reactions.

    Args:
        segments: files that servers wrote.
        target: the log to write.
        work: an empty folder for parts of the lines.
        reactions: joined to the suggestions.

    Raises:
        BadDataError: no segments, a damaged one, or a line that no server wrote; the segment is named.
    """
    paths = list(segments)
    if not paths:
        raise BadDataError("no segments of a server's log in this folder", "Give the folder that ippo-serve --log had.")
    parts = _split(paths, work)
    left_out: Counter[str] = Counter()
    with target.open("w", encoding="utf-8") as file:
        for part in parts:
            conversations = _grouped(part, reactions, left_out)
            for name in sorted(conversations):
                line = _named_line(name, conversations[name], left_out)
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            part.unlink()
    return +left_out  # without zeros


def _split(paths: list[Path], work: Path) -> list[Path]:
    """Divides the lines by conversation."""
    work.mkdir(parents=True, exist_ok=True)
    size = sum(path.stat().st_size for path in paths) * _EXPANSION
    count = min(_MOST_PARTS, 1 + size // _PART_BYTES)
    parts = [work / f"part-{number:03d}.jsonl" for number in range(count)]
    with ExitStack() as stack:
        files = [stack.enter_context(part.open("wb")) for part in parts]
        for line, record in _records(paths):
            digest = hashlib.blake2b(record["conversation_id"].encode(), digest_size=8).digest()
            files[int.from_bytes(digest, "big") % count].write(line)
    return parts


def _records(paths: list[Path]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    for path in paths:
        place = "its beginning"
        try:
            with gzip.open(path, "rb") as file:
                for number, line in enumerate(file, 1):
                    place = f"line {number}"
                    yield line, checked(json.loads(line))
                    place = f"what follows line {number}"
        except (*UNREADABLE, KeyError, TypeError, AttributeError, RecursionError) as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise BadDataError(
                f"{path.name}, {place} is not what a server of this release logs ({why})",
                "Take the segment out of the folder.",
            ) from error


def checked(record: dict[str, Any]) -> dict[str, Any]:
    """The line of a log. Raises ValueError, KeyError or TypeError where no server of this release wrote it."""
    if record["version"] != FORMAT:
        raise ValueError(f"version {record['version']}")
    for name, kinds in _TYPES.items():
        if type(record[name]) not in kinds:
            raise ValueError(f"{name} is {show(record[name])}")
    texts = [record[name] or "" for name, kinds in _TYPES.items() if str in kinds] + [record.get("context") or ""]
    if not all(record[name] for name in _NAMES) or not all(map(is_text, texts)):
        raise ValueError("a text is empty, or none of Unicode")
    if record["turn"] < 0 or not all(isinstance(message, dict) for message in record["messages"]):
        raise ValueError("turn or messages")
    if not (0 <= record["started_at"] < _NEVER and 0 <= record["time"] < _NEVER):
        raise ValueError("started_at or time is no time")
    return record


def _grouped(part: Path, reactions: Reactions | None, left_out: Counter[str]) -> dict[str, Served]:
    conversations: dict[str, Served] = {}
    keys: set[tuple[str, int]] = set()
    with part.open("rb") as file:
        for line in file:
            record = json.loads(line)
            key = (record["id"], record["choice"])
            if key in keys:
                left_out["suggestions that were logged twice"] += 1
                continue
            keys.add(key)
            if not record["named"] and record["turn"]:
                left_out["suggestions whose requests did not name the conversation that they belong to"] += 1
                continue
            row = None if reactions is None else reactions.of(record)
            conversations.setdefault(record["conversation_id"], Served()).take(record, row, left_out)
    return conversations


def state_of(messages: list[dict[str, Any]]) -> State:
    """The messages of a request, as serving reads them. Raises BadDataError as `read_state`."""
    return read_state(dict(enumerate(_sent(messages))))


def _named_line(name: str, served: Served, left_out: Counter[str]) -> dict[str, Any]:
    try:
        return served.line(name, left_out)
    except BadDataError as error:
        raise BadDataError(
            f"what servers logged of conversation {name!r:.100} is no chat: {error.message}",
            "Take the segments that name it out of the folder.",
        ) from error


def _sent(messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Without what the business did not send and what stands in every prompt, as serving reads them."""
    for message in messages:
        content = message.get("content")
        if isinstance(content, list) and all(isinstance(part, dict) for part in content):
            content = "".join(str(part.get("text", part)) for part in content)
        empty = content is None or (isinstance(content, str) and not content.strip())
        silent = empty and not message.keys() & {"suggestion", "reaction"}
        if message.get("role") not in ("system", "developer") and not silent:
            yield message


def _of_history(turn: Turn, alike: list[_Suggestion], left_out: Counter[str]) -> list[dict[str, Any]]:
    """A turn that a later request tells of, with the suggestion that was logged for it, if there is one."""
    said = turn.suggestion != turn.sent_message or turn.reaction != "accepted"
    candidates = [each for each in alike if each.message == turn.customer_message]
    text = turn.suggestion if said else turn.sent_message
    chosen = next((each for each in reversed(candidates) if each.row is not None), None)
    chosen = chosen or next((each for each in reversed(candidates) if each.text == text), None)
    if chosen is None and candidates and not said:
        chosen = candidates[-1]
    left_out["suggestions that were made again"] += len(alike) - (chosen is not None)
    if chosen is None:
        return _messages(turn.customer_message, turn.tool_messages, turn.sent_message, turn.suggestion, turn.reaction)
    reaction = turn.reaction if said else _reaction(chosen.text, turn.sent_message)
    return _with_row(chosen, turn.customer_message, turn.tool_messages, turn.sent_message, reaction)


def _of_last(
    message: str, tools: Sequence[str], alike: list[_Suggestion], left_out: Counter[str]
) -> list[dict[str, Any]]:
    candidates = [each for each in alike if each.message == message] or alike
    chosen = next((each for each in reversed(candidates) if each.row is not None), candidates[-1])
    left_out["suggestions that were made again"] += len(alike) - 1
    return _with_row(chosen, message, tools, chosen.text or "", _reaction(chosen.text, chosen.text or ""))


def _reaction(suggestion: str | None, sent: str) -> str:
    """What nobody said: a text that was sent as it is was accepted, another one came of it."""
    return "rejected" if suggestion is None else "accepted" if suggestion == sent else "edited"


def _with_row(
    chosen: _Suggestion, message: str, tools: Sequence[str], sent: str, reaction: str
) -> list[dict[str, Any]]:
    """The turn with what the file of reactions says of it, which counts for more than what was guessed."""
    row, sampled, time = chosen.row, dict(chosen.sampled), chosen.time
    if row is not None:
        if chosen.text is not None:
            reaction = row.reaction
        if row.sent is not None:
            sent = row.sent
        elif reaction == "rejected" and sent == chosen.text:
            sent = ""  # it was not sent, and nobody says what was
        sampled |= {"displayed": row.displayed}
        time = row.time if row.time is not None else time
    messages = _messages(message, tools, sent, chosen.text, reaction)
    messages[0]["time"] = chosen.started_at
    messages[-1] |= {"time": time, **sampled}
    return messages


def _messages(
    message: str, tools: Sequence[str], sent: str, suggestion: str | None, reaction: str
) -> list[dict[str, Any]]:
    """Of one turn."""
    said = {"role": "assistant", "content": sent, "suggestion": suggestion, "reaction": reaction}
    return [{"role": "user", "content": message}, *({"role": "tool", "content": tool} for tool in tools), said]
