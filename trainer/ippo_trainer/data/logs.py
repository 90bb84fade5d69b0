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
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.lines import one_line
from ippo_trainer.data.arrays import array_items
from ippo_trainer.data.beginnings import check_beginning
from ippo_trainer.data.columns import check_unique, plain_rows
from ippo_trainer.data.context import CONTEXT, context_of
from ippo_trainer.data.json_lines import ENDINGS, LONGEST_LINE, parse
from ippo_trainer.data.message_rows import LISTS, holds_messages, present
from ippo_trainer.data.messages import (
    EXPLORED,
    check,
    context_in,
    fields_of,
    is_message,
    is_text,
    plain_name,
    show,
    time_of,
    turns_of,
    writer_of,
)
from ippo_trainer.data.problems import ProblemError, Problems
from ippo_trainer.data.schema import PEOPLE, Conversation
from ippo_trainer.data.spelling import misspelt
from ippo_trainer.data.turns import iter_turns

_FORMAT = 'One JSON object per line: {"conversation_id", "messages": [{"role", "content"}], "outcome"}.'
_CONVERSATION_FIELDS = ("conversation_id", "messages", "outcome", "customer_id", CONTEXT)
_MESSAGE_FIELDS = (
    *("role", "content", "suggestion", "reaction"),
    *("policy_digest", "displayed", "token_ids", "sampler_logprobs", EXPLORED),
)
_ARRAYS = (".json", ".json.gz")
"""One JSON array of conversations, as ShareGPT's data sets are."""
_ARRAY_FORMAT = "Write one JSON array of conversations in UTF-8, or one line each in a file named .jsonl."
_LONGEST_GROUP = 64
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
        conversation = _Record("a conversation", "", problems, value).conversation(omissions)
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
        }

    def __iter__(self) -> Iterator[Conversation]:
        yield from self.conversations()
        self.problems.check()
        if not self.count:
            raise self.nothing()

    def nothing(self) -> BadDataError:
        """What is wrong with a log without a conversation to learn from."""
        return BadDataError(f"no conversations with a customer message and a reply in {self.path.name}", _FORMAT)

    def conversations(self) -> Iterator[Conversation]:
        """The good ones; what is wrong with the others is in `problems`, and not raised."""
        if not self._names.endswith((*ENDINGS, *_ARRAYS, ".parquet")):
            raise BadDataError(
                f"{self.path.name} is no log that can be read", "Give .jsonl, .jsonl.gz, .json or .parquet."
            )
        if self._names.endswith(".parquet") and not holds_messages(self.path):
            yield from self._turn_parquet()
            return
        arrays = self._names.endswith(_ARRAYS)
        for record in self._rows() if self._names.endswith(".parquet") else self._items() if arrays else self._lines():
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

    def _rows(self) -> Iterator["_Record"]:
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
                                    self.problems.add(ProblemError(self.path.name, place, row, _FORMAT))
                                else:
                                    yield _Record(self.path.name, place, self.problems, present(row))
                            skipped -= batch.num_rows
                    first += rows
                    self.bytes = self.size * (group + 1) // groups
        except (OSError, pa.ArrowException) as error:
            text = " ".join(str(error).split())[:300]
            raise BadDataError(f"{self.path.name} is damaged: {text}", "Fetch or make the file again.") from error

    def _lines(self) -> Iterator["_Record"]:
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
                        self.problems.add(ProblemError(name, place, " is longer than 16 MiB", _FORMAT))
                        while data and not data.endswith(b"\n"):
                            data = file.readline(LONGEST_LINE)
                            self._offset += len(data)
                    elif data.strip():
                        record = _Record(name, place, self.problems)
                        with self.problems.collecting():
                            record.parse(data)
                            yield record
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            self.problems.add(_damaged(name, f"line {self._number}", error))

    def _items(self) -> Iterator["_Record"]:
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
                    record = _Record(name, f"item {number}", self.problems)
                    with self.problems.collecting():
                        record.parse(data)
                        yield record
        except ValueError as error:
            what = f": {error}" if self._number else f" cannot be read: {error}"
            self.problems.add(ProblemError(name, f"item {self._number + 1}", what, _ARRAY_FORMAT))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            self.problems.add(_damaged(name, f"item {self._number}", error))

    def _conversation(self, record: "_Record") -> Conversation | None:
        """None where there is nothing to learn, or where something is wrong with it; all of that is collected."""
        conversation = record.conversation(self.omissions)
        if conversation is None:
            return None
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


def group_of(value: Any) -> str:
    """A group as the report names it; empty for what is neither a text nor a whole number: others have such fields."""
    is_name = isinstance(value, str | int) and not isinstance(value, bool)
    return one_line(str(value), _LONGEST_GROUP) if is_name else ""


def _joined(*contexts: str) -> str:
    return context_of(CONTEXT, "\n\n".join(text for text in contexts if text))


class _Record:
    """One line or row of a log, which is one conversation."""

    def __init__(self, file: str, place: str, problems: Problems, value: dict[str, Any] | None = None) -> None:
        self._file, self.place, self._problems = file, place, problems
        self._value: dict[str, Any] = value or {}

    def fail(self, what: str, remedy: str) -> NoReturn:
        """Raises a ProblemError of this record."""
        raise ProblemError(self._file, self.place, what, remedy)

    def parse(self, data: bytes) -> None:
        """Takes the line's JSON object."""
        value = parse(data, self.fail, _FORMAT)
        if not isinstance(value, dict):
            self.fail(" is no JSON object", _FORMAT)
        self._value = value

    def conversation(self, omissions: Counter[str]) -> Conversation | None:
        """The conversation, its id empty where it has none; None where something is wrong, which is collected."""
        value, before = self._value, self._problems.total
        list_name = next((name for name in LISTS if isinstance(value.get(name), list)), LISTS[0])
        writer: str | None = None
        context = ""
        with self._problems.collecting():
            writer = self._with_place(writer_of, "", value)
        with self._problems.collecting():
            context = self._with_place(context_of, CONTEXT, value.get(CONTEXT))
        names = (value[name] for name in ("conversation_id", "id") if value.get(name) is not None)
        identifier = self._name("conversation_id", next(names, None))
        customer = self._name("customer_id", value.get("customer_id"))
        outcome = value.get("outcome")
        if outcome is not None and not isinstance(outcome, bool):
            self._note(f": outcome is {show(outcome)}", "Use true, false, or null while it is open.")
        messages = value.get(list_name)
        if messages is None and is_message(value):
            self._note(" is a message by itself", "Write each conversation on one line, its messages in a list.")
            return None
        synonyms = {"conversation_id"} if "id" in value else set()
        self._check_names({**dict.fromkeys(synonyms), **value}, "", _CONVERSATION_FIELDS)
        if not isinstance(messages, list):
            self._note(f": messages is {show(messages)}{fields_of(value) if messages is None else ''}", _FORMAT)
            return None
        checked = []
        for index, message in enumerate(messages):
            with self._problems.collecting():
                checked.append(self._with_place(check, f"{list_name}[{index}]", message, omissions))
            if isinstance(message, dict):
                self._check_names(message, f"{list_name}[{index}].", _MESSAGE_FIELDS)
        if self._problems.total > before:
            return None
        turns = self._with_place(turns_of, checked, omissions, writer or PEOPLE)
        context = self._with_place(_joined, context_in(checked, omissions), context)
        if turns and not turns[-1].ended_at:
            turns[-1].ended_at = time_of(value) or 0.0
        group = group_of(value.get("group"))
        return Conversation(identifier, turns, bool(outcome), outcome is None, customer, context, group)

    def _with_place(self, read: Callable[..., Any], *arguments: Any) -> Any:
        """What `read` makes; its errors get this record's place."""
        try:
            return read(*arguments)
        except BadDataError as error:
            raise ProblemError(self._file, self.place, f": {error.message}", error.remedy) from None

    def _name(self, field: str, value: Any) -> str:
        """An id as a text; empty where there is none, or where it is none, which is noted."""
        if value is None:
            return ""
        is_name = isinstance(value, str | int) and not isinstance(value, bool)
        if not is_name or value == "" or not is_text(str(value)):
            self._note(f": {field} is {show(value)}", "Give each a unique text, or leave the field out.")
            return ""
        return str(value)

    def _check_names(self, value: dict[str, Any], prefix: str, fields: Collection[str]) -> None:
        for name, field in misspelt(value, fields).items():
            self._note(f": unknown field {prefix}{plain_name(name)}", f"Rename it to {field}, or leave it out.")

    def _note(self, what: str, remedy: str) -> None:
        self._problems.add(ProblemError(self._file, self.place, what, remedy))
