"""A stranger's chat log, whatever tool wrote it, one conversation at a time.

One line of JSON, or one row of parquet, is one conversation:

    {"conversation_id": "c1", "outcome": true, "messages": [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "how can I help?", "suggestion": "hi", "reaction": "edited"}, …]}

OpenAI's exports (contents in parts, calls of tools), ShareGPT's (`conversations` of `from` and `value`) and turn
parquet are read, too. docs/chat-logs.md says what each field means, and what is left out and counted.
"""

import codecs
import gzip
import hashlib
import json
import logging
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ippo_trainer.contract import log_names
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.arrays import array_items
from ippo_trainer.data.beginnings import check_beginning
from ippo_trainer.data.columns import check_unique, plain_rows
from ippo_trainer.data.json_lines import LONGEST_LINE
from ippo_trainer.data.log_record import FORMAT, Record, group_of
from ippo_trainer.data.message_rows import holds_messages, present
from ippo_trainer.data.messages import ZONES
from ippo_trainer.data.problems import ProblemError, Problems
from ippo_trainer.data.schema import Conversation
from ippo_trainer.data.situations import digest
from ippo_trainer.data.turns import columns_without_zone, iter_turns

"""One JSON array of conversations, as ShareGPT's data sets are."""
_ARRAY_FORMAT = "Write one JSON array of conversations in UTF-8, or one line each in a file named .jsonl."
_MOST_FIELDS = 64
_ROWS = 64
WITHOUT_REPLY = "conversations without a reply"

log = logging.getLogger(__name__)


def read_log(path: Path, warn: Callable[[str], None] = log.warning) -> list[Conversation]:
    """All conversations of a log.

    Args:
        path: of the log.
        warn: is told what was left out, and how often.

    Raises:
        BadDataError: as `LogReader`.
    """
    reader = LogReader(path)
    conversations = list(reader)
    for what in reader.left_out():
        warn(what)
    return conversations


def conversation_of(value: dict[str, Any], omissions: Counter[str]) -> Conversation:
    """A conversation of a log that is no file.

    Args:
        value: as a line of a log has it, checked as one.
        omissions: counts what is left out of it.

    Raises:
        BadDataError: all that is wrong with it.
    """
    problems = Problems("a conversation")
    conversation = None
    with problems.collecting():
        conversation = Record("a conversation", "", problems, value).conversation(omissions)
    problems.check()
    assert conversation is not None  # else there were problems
    return conversation


class LogReader:
    """The conversations of a log, in order. Its memory is bounded but for the names of the conversations.

    Args:
        path: of the log.
        field: of the manifest, for errors.
        position: where an earlier reader stood, by `position()`: goes on from there.

    Raises:
        BadDataError: while it is read, or at its end, where all that is wrong comes in one error that names file and
            line (or row and column) and the remedy: no such file, unknown format, damaged archive, not JSON, NaN,
            missing, misspelt or mistyped field, a field twice, empty message, unknown role, an id twice, no
            conversation with a customer message and a reply to it.
    """

    def __init__(
        self, path: Path, field: str = "warmStart.conversations", position: dict[str, Any] | None = None
    ) -> None:
        if not path.is_file():
            raise BadDataError(f"there is no log {path}", f"Check {field}.")
        self.path, self.size = path, path.stat().st_size
        start = position or {}
        self.problems = Problems(path.name)
        self.notices = Problems.restore(path.name, start.get("notices", {}))
        """What is worth a look though nothing is wrong."""
        self.omissions: Counter[str] = Counter(start.get("omissions", {}))
        self.count: int = start.get("count", 0)
        """Conversations so far, those of an earlier reader among them."""
        self.bytes: int = start.get("bytes", 0)
        """Of the file, so far."""
        self.place = ""
        """Of the latest conversation, for errors."""
        self._met: dict[str, tuple[int, int, bool | None]] = {
            name: (number, said, outcome) for name, (number, said, outcome) in start.get("met", {}).items()
        }
        """By conversation_id, the number of its line, a digest of what is said there, and the outcome."""
        self._repeated: Counter[str] = Counter(start.get("repeated", {}))
        self._number: int = start.get("number", 0)
        self._offset: int = start.get("offset", 0)
        self._names = path.name.lower()
        self.first: dict[str, str] = dict(start.get("first", {}))
        """By what was left out, the place where that was first."""
        self.unread: Counter[str] = Counter(start.get("unread", {}))
        """By field that nobody reads, the conversations that have it; of at most `_MOST_FIELDS` fields."""

    def position(self) -> dict[str, Any]:
        """Where the next conversation begins, for another reader of the same file; JSON."""
        return {
            "omissions": dict(self.omissions),
            "count": self.count,
            "met": {name: list(each) for name, each in self._met.items()},
            "repeated": dict(self._repeated),
            "number": self._number,
            "offset": self._offset,
            "bytes": self.bytes,
            "first": dict(self.first),
            "unread": dict(self.unread),
            "notices": self.notices.state(),
        }

    def __iter__(self) -> Iterator[Conversation]:
        yield from self.conversations()
        self.problems.check()
        if not self.count:
            raise self.nothing()

    def nothing(self) -> BadDataError:
        """What is wrong with a log without a conversation to learn from."""
        left_out = ", ".join(f"{count} {what}" for what, count in sorted(self.omissions.items()))
        first = next(iter(self.first.values()), "")
        why = f"; left out are {left_out} (first: {first})" if left_out and first else ""
        return BadDataError(f"no conversations with a customer message and a reply in {self.path.name}{why}", FORMAT)

    def conversations(self) -> Iterator[Conversation]:
        """The good ones; what is wrong with the others is in `problems`, and not raised."""
        if not self._names.endswith(log_names.LOGS):
            raise BadDataError(
                f"{self.path.name} is no log that can be read", "Give .jsonl, .jsonl.gz, .json or .parquet."
            )
        if self._names.endswith(log_names.PARQUET) and not holds_messages(self.path):
            yield from self._turn_parquet()
            return
        arrays = self._names.endswith(log_names.ARRAYS)
        for record in (
            self._rows() if self._names.endswith(log_names.PARQUET) else self._items() if arrays else self._lines()
        ):
            self.place = record.place
            with self.problems.collecting():
                conversation = self._conversation(record)
                if conversation is not None:
                    self.count += 1
                    yield conversation

    def left_out(self) -> list[str]:
        """What was left out, how often, and where first, in words."""
        first = {what: f" (first: {place})" for what, place in self.first.items()}
        counts = sorted(self.omissions.items())
        return [f"{self.path.name}: left out {count} {what}{first.get(what, '')}" for what, count in counts]

    def leave_out(self, what: str) -> None:
        """Counts what is left out of the latest conversation, or that it is."""
        self.omissions[what] += 1
        self.first.setdefault(what, self.place)

    def _turn_parquet(self) -> Iterator[Conversation]:
        with self.problems.collecting():
            if not self.count:
                self._note_columns_without_zone()
            for number, conversation in enumerate(iter_turns(self.path, self.problems)):
                if number >= self.count:
                    self.count += 1
                    self.place = f"conversation {self.count}"
                    conversation.group = group_of(conversation.group)
                    yield conversation
        self.bytes = self.size

    def _note_columns_without_zone(self) -> None:
        for name in columns_without_zone(self.path):
            what = f", column {name!r} has times without a zone, which are taken as UTC"
            self.notices.add(ProblemError(self.path.name, "row 0", what, ZONES))

    def _rows(self) -> Iterator[Record]:
        """Of parquet that has a column of messages, one conversation each."""
        try:
            with pq.ParquetFile(self.path) as file:
                check_unique(self.path.name, file.schema_arrow.names)
                groups, first = file.metadata.num_row_groups, 0
                for group in range(groups):
                    rows = file.metadata.row_group(group).num_rows
                    if first + rows > self._number:
                        skipped = self._number - first
                        for batch in file.iter_batches(batch_size=_ROWS, row_groups=[group]):
                            for row in plain_rows(batch.slice(min(max(0, skipped), batch.num_rows))):
                                place = f"row {self._number}"
                                self._number += 1
                                if isinstance(row, str):
                                    self.problems.add(ProblemError(self.path.name, place, row, FORMAT))
                                else:
                                    yield Record(self.path.name, place, self.problems, present(row))
                            skipped -= batch.num_rows
                    first += rows
                    self.bytes = self.size * (group + 1) // groups
        except (OSError, pa.ArrowException) as error:
            text = " ".join(str(error).split())[:300]
            raise BadDataError(f"{self.path.name} is damaged: {text}", "Fetch or make the file again.") from error

    def _lines(self) -> Iterator[Record]:
        """Lines that are not blank, in constant memory."""
        name = self.path.name
        try:
            with self.path.open("rb") as raw:
                file = gzip.GzipFile(fileobj=raw) if self._names.endswith(".gz") else raw
                file.seek(self._offset)
                while data := file.readline(LONGEST_LINE + 1):
                    self._number, self.bytes = self._number + 1, raw.tell()
                    self._offset += len(data)
                    place = f"line {self._number}"
                    if self._number == 1:
                        data = data.removeprefix(codecs.BOM_UTF8)
                        check_beginning(name, data)
                    if len(data) > LONGEST_LINE:
                        self.problems.add(ProblemError(name, place, " is longer than 16 MiB", FORMAT))
                        while data and not data.endswith(b"\n"):
                            data = file.readline(LONGEST_LINE)
                            self._offset += len(data)
                    elif data.strip():
                        record = Record(name, place, self.problems)
                        with self.problems.collecting():
                            record.parse(data)
                            yield record
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            self.problems.add(_damaged(name, f"line {self._number}", error))

    def _items(self) -> Iterator[Record]:
        """Of a JSON array, one after another; each is in memory for itself."""
        name = self.path.name
        try:
            with self.path.open("rb") as raw:
                file: Any = gzip.GzipFile(fileobj=raw) if self._names.endswith(".gz") else raw
                for number, data in enumerate(array_items(file, LONGEST_LINE), 1):
                    self.bytes = raw.tell()
                    if number <= self._number:
                        continue
                    self._number = number
                    record = Record(name, f"item {number}", self.problems)
                    with self.problems.collecting():
                        record.parse(data)
                        yield record
        except ValueError as error:
            what = f": {error}" if self._number else f" cannot be read: {error}"
            self.problems.add(ProblemError(name, f"item {self._number + 1}", what, _ARRAY_FORMAT))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            self.problems.add(_damaged(name, f"item {self._number}", error))

    def _conversation(self, record: Record) -> Conversation | None:
        """None where there is nothing to learn, or where something is wrong with it; all of that is collected."""
        before = len(self.omissions)
        conversation = record.conversation(self.omissions)
        for what in list(self.omissions)[before:]:
            self.first[what] = record.place
        if conversation is None:
            return None
        for name in sorted(record.unread()):
            if name in self.unread or len(self.unread) < _MOST_FIELDS:
                self.unread[name] += 1
        if conversation.id:
            self._check_once(conversation, record.place)
        if not conversation.turns:
            self.leave_out(WITHOUT_REPLY)
            return None
        if record.lacks_zones():
            what = ": its times have no zone, and are taken as UTC"
            self.notices.add(ProblemError(self.path.name, record.place, what, ZONES))
        if not conversation.id:
            conversation.id = self._derived_id(conversation)
        return conversation

    def _check_once(self, conversation: Conversation, place: str) -> None:
        """Raises a ProblemError that names both places where an id comes a second time, and how they differ."""
        unit, number = place.split()
        outcome = None if conversation.censored else conversation.outcome
        met = int(number), _said(conversation), outcome
        first, said, ended = self._met.setdefault(conversation.id, met)
        if first == met[0]:
            return
        how, remedy = ", word for word", "Leave one of them out."
        if said != met[1]:
            how, remedy = " with other messages", "Give each conversation an id of its own, or write one that is whole."
        if ended != outcome:
            how += (
                f"{' and' if said != met[1] else ', but with'} outcome {json.dumps(ended)}, then {json.dumps(outcome)}"
            )
            remedy = remedy if said != met[1] else f"Keep the {unit} that is right."
        what = f": conversation_id {conversation.id!r:.100} comes a second time{how}"
        raise ProblemError(self.path.name, f"{unit}s {first} and {number}", what, remedy)

    def _derived_id(self, conversation: Conversation) -> str:
        """Of what is said; those that say the same are numbered."""
        words = json.dumps([(turn.customer_message, turn.sent_message) for turn in conversation.turns])
        name = f"log-{hashlib.sha256(words.encode()).hexdigest()[:16]}"
        self._repeated[name] += 1
        return name if self._repeated[name] == 1 else f"{name}-{self._repeated[name]}"

    @property
    def alike(self) -> int:
        """Conversations without an id that say what another one said, word for word."""
        return sum(count - 1 for count in self._repeated.values())


def _said(conversation: Conversation) -> int:
    """A digest of all that is said in it."""
    turns = [(turn.customer_message, turn.suggestion, turn.reaction, turn.sent_message) for turn in conversation.turns]
    return digest(repr((conversation.context, turns)))


def _damaged(name: str, place: str, error: Exception) -> BadDataError:
    """Of an archive: `place` is the last that could be read."""
    if place.endswith(" 0"):
        return BadDataError(f"{name} is no gzip archive: {error}", "Give it a name without .gz, or compress it again.")
    return ProblemError(
        name, place, f" is the last before the file is damaged: {error}", "Compress the log with gzip again."
    )
