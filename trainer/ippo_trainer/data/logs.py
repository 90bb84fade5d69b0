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
from ippo_trainer.data.problems import ProblemError, Problems
from ippo_trainer.data.schema import Conversation
from ippo_trainer.data.turns import iter_turns

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
        self.omissions: Counter[str] = Counter(start.get("omissions", {}))
        self.count: int = start.get("count", 0)
        """Conversations so far, those of an earlier reader among them."""
        self.bytes: int = start.get("bytes", 0)
        """Of the file, so far."""
        self.place = ""
        """Of the latest conversation, for errors."""
        self._places: dict[str, int] = dict(start.get("places", {}))
        self._repeated: Counter[str] = Counter(start.get("repeated", {}))
        self._number: int = start.get("number", 0)
        self._offset: int = start.get("offset", 0)
        self._names = path.name.lower()
        self.first: dict[str, str] = dict(start.get("first", {}))
        """By what was left out, the place where that was first."""
        self.unread: Counter[str] = Counter()
        """By field that nobody reads, the conversations that have it; of at most `_MOST_FIELDS` fields."""

    def position(self) -> dict[str, Any]:
        """Where the next conversation begins, for another reader of the same file; JSON."""
        return {
            "omissions": dict(self.omissions),
            "count": self.count,
            "places": dict(self._places),
            "repeated": dict(self._repeated),
            "number": self._number,
            "offset": self._offset,
            "bytes": self.bytes,
            "first": dict(self.first),
        }

    def __iter__(self) -> Iterator[Conversation]:
        yield from self.conversations()
        self.problems.check()
        if not self.count:
            raise self.nothing()

    def nothing(self) -> BadDataError:
        """What is wrong with a log without a conversation to learn from."""
        return BadDataError(f"no conversations with a customer message and a reply in {self.path.name}", FORMAT)

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
        """What was left out, and how often, in words."""
        return [f"{self.path.name}: left out {count} {what}" for what, count in sorted(self.omissions.items())]

    def _turn_parquet(self) -> Iterator[Conversation]:
        with self.problems.collecting():
            for number, conversation in enumerate(iter_turns(self.path, imported=True)):
                if number >= self.count:
                    self.count += 1
                    self.place = f"conversation {self.count}"
                    conversation.group = group_of(conversation.group)
                    yield conversation
        self.bytes = self.size

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
        if len(self.omissions) > before:
            self.first |= dict.fromkeys(self.omissions.keys() - self.first.keys(), record.place)
        if conversation is None:
            return None
        for name in sorted(record.unread()):
            if name in self.unread or len(self.unread) < _MOST_FIELDS:
                self.unread[name] += 1
        if conversation.id:
            first = self._places.setdefault(conversation.id, self._number)
            if first != self._number:
                what = f": conversation_id {conversation.id!r:.100} comes a second time"
                place = record.place.split()[0]
                record.fail(what, f"The first is on {place} {first}; write each conversation on one {place}.")
        if not conversation.turns:
            self.omissions[WITHOUT_REPLY] += 1
            return None
        if not conversation.id:
            conversation.id = self._derived_id(conversation)
        return conversation

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


def _damaged(name: str, place: str, error: Exception) -> BadDataError:
    """Of an archive: `place` is the last that could be read."""
    if place.endswith(" 0"):
        return BadDataError(f"{name} is no gzip archive: {error}", "Give it a name without .gz, or compress it again.")
    return ProblemError(
        name, place, f" is the last before the file is damaged: {error}", "Compress the log with gzip again."
    )
