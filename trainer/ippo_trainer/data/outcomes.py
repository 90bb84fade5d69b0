"""Outcomes in a file of their own, joined to the conversations of a log by id, within an observation window.

A row says of one conversation that the outcome came, and when: JSON lines, CSV or parquet with `conversation_id`, and
`outcome` (true where it is left out) and `time` if they are known. A list of purchases is such a file.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ippo_trainer.contract import log_names
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.moments import lacks_zone
from ippo_trainer.data.columns import check_unique, plain_rows
from ippo_trainer.data.json_lines import UNREADABLE, lines, opened, values
from ippo_trainer.data.logs import LogReader
from ippo_trainer.data.messages import ZONES, show, time_of
from ippo_trainer.data.problems import ProblemError, Problems
from ippo_trainer.data.schema import Conversation
from ippo_trainer.data.spelling import misspelt

_OPPOSITE = "Leave the outcomes out of the log, or mend one of the two."
_FORMAT = "Write conversation_id, outcome and time as .csv, .jsonl or .parquet."
_FIELDS = ("conversation_id", "outcome", "time")
_FLAGS: dict[Any, bool] = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}
"""1 and 0 are among them: to a dictionary they are the same as true and false."""
_NAMED, _MOST_NAMES = 3, 8
BEFORE = "conversations that began after their outcome"


@dataclass(frozen=True, slots=True)
class _Row:
    outcome: bool
    time: float | None
    place: int


class Outcomes:
    """What a file says of the conversations of a log. Its memory grows with the number of its rows.

    Args:
        path: of the file.
        window: seconds after the end of a conversation in which an outcome counts; None: whenever it came.

    Raises:
        BadDataError: all that is wrong with the file: no such file, another format, no id, an outcome that is neither
            true nor false, rows of one conversation that contradict each other.
    """

    def __init__(self, path: Path, window: float | None = None) -> None:
        if not path.is_file():
            raise BadDataError(f"there is no file of outcomes {path}", "Check collect.history.outcomes.")
        self.path, self.window = path, window
        self.counts: Counter[str] = Counter()
        """Conversations by what the join came to."""
        self.notices = Problems(path.name)
        """What is worth a look though nothing is wrong."""
        self.matches = 0
        """Conversations that the file names."""
        self._unmatched: list[str] = []
        self._rows = self._read()
        if window is not None and self._rows and all(row.time is None for row in self._rows.values()):
            raise BadDataError(
                f"{path.name} has no times, and collect.history.window needs them",
                "Add the column time, or leave the window out.",
            )
        self._until = max((row.time for row in self._rows.values() if row.time is not None), default=0.0)
        """The latest time in the file: until then somebody watched."""

    def join(self, conversation: Conversation) -> Conversation:
        """The conversation with its outcome.

        Without a row it is a failure, and censored where the window was not over when the file ended.

        Raises:
            BadDataError: the log says the opposite, or says that the outcome came and the file does not, or a window
                is asked for and the conversation has no time.
        """
        row = self._rows.get(conversation.id)
        if row is None:
            if len(self._unmatched) < _NAMED:
                self._unmatched.append(conversation.id)
        else:
            self.matches += 1
        joined = self._judge(conversation, row)
        if not conversation.censored and row is not None and conversation.outcome != row.outcome:
            raise BadDataError(
                f": outcome of conversation {conversation.id!r:.100} is {show(conversation.outcome)}, and "
                f"{self.path.name}, row {row.place}, says {show(row.outcome)}",
                _OPPOSITE,
            )
        if conversation.outcome and row is None:
            raise BadDataError(
                f": outcome of conversation {conversation.id!r:.100} is true, and {self.path.name} does not name it",
                _OPPOSITE,
            )
        kind = "open" if joined.censored else "with the outcome" if joined.outcome else "without the outcome"
        self.counts[kind] += 1
        return joined

    def check(self) -> None:
        """Adds what is worth a look after all conversations were joined.

        Raises:
            BadDataError: no conversation has a row.
        """
        if not self.matches:
            ours, theirs = (", ".join(map(repr, names)) for names in (self._unmatched, list(self._rows)[:_NAMED]))
            raise BadDataError(
                f"no conversation_id of the log is in {self.path.name}: the log has {ours or 'none'}, the file "
                f"{theirs or 'no row'}",
                "Write the same ids into both.",
            )
        rest = len(self._rows) - self.matches
        if rest:
            what = f"{rest} of {len(self._rows)} ids in {self.path.name} are of no conversation in the log"
            self.notices.add(BadDataError(what, "That is well where the file is of more than this log."))

    def _judge(self, conversation: Conversation, row: _Row | None) -> Conversation:
        if self.window is None:
            joined = replace(conversation, outcome=row is not None and row.outcome, censored=False)
            return _with_time(joined, row)
        end = max((turn.ended_at for turn in conversation.turns), default=0.0)
        end = end or max((turn.started_at for turn in conversation.turns), default=0.0)
        if not end:
            raise BadDataError(
                f": conversation {conversation.id!r:.100} has no time, and collect.history.window needs one",
                "Give its messages a field time, or leave the window out.",
            )
        in_time = row is not None and (row.time is None or row.time <= end + self.window)
        if row is not None and row.outcome and in_time:
            return _with_time(replace(conversation, outcome=True, censored=False), row)
        over = self._until >= end + self.window or (row is not None and not row.outcome)
        return replace(conversation, outcome=False, censored=not over)

    def _read(self) -> dict[str, _Row]:
        problems, rows = Problems(self.path.name), dict[str, _Row]()
        for number, value in self._records(problems):
            with problems.collecting():
                name, row = self._row(number, value)
                before = rows.get(name)
                if before is not None and before.outcome != row.outcome:
                    what = (
                        f": outcome of conversation {name!r:.100} is {show(before.outcome)}, then {show(row.outcome)}"
                    )
                    where = f"rows {before.place} and {number}"
                    raise ProblemError(self.path.name, where, what, "Keep the row that is right.")
                if before is None or (row.time or 0.0) < (before.time or 0.0):
                    rows[name] = row
        problems.check()
        if not rows:
            raise BadDataError(f"{self.path.name} has no outcomes", _FORMAT)
        return rows

    def _row(self, number: int, value: Any) -> tuple[str, _Row]:
        def fail(what: str, remedy: str) -> ProblemError:
            return ProblemError(self.path.name, f"row {number}", what, remedy)

        if not isinstance(value, dict):
            raise fail(" is no object", _FORMAT)
        for unknown, field in misspelt(map(str, value), _FIELDS).items():
            raise fail(f": unknown field {show(unknown)}", f"Rename it to {field}, or leave it out.")
        name = value.get("conversation_id")
        if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
            raise fail(f": conversation_id is {show(name)}", _FORMAT)
        outcome = value.get("outcome", True)
        flag = outcome.strip().lower() if isinstance(outcome, str) else outcome
        if not isinstance(flag, str | bool | int) or flag not in _FLAGS:
            raise fail(f": outcome is {show(outcome)}", "Use true or false, or leave open conversations out.")
        return str(name), _Row(_FLAGS[flag], self._time(number, value), number)

    def _time(self, number: int, value: dict[str, Any]) -> float | None:
        cell = value.get("time")
        if cell is None or cell == "":
            return None
        numeric = isinstance(cell, str) and re.fullmatch(r"[0-9]{1,13}(\.[0-9]{1,9})?", cell) is not None
        time = time_of({"time": float(cell) if numeric else cell})
        if time is None:
            what = f": time is {show(cell)}"
            raise ProblemError(self.path.name, f"row {number}", what, "Use ISO 8601, or seconds since 1970 UTC.")
        if lacks_zone(cell):
            what = f": its time in {self.path.name} has no zone, and is taken as UTC"
            self.notices.add(ProblemError(self.path.name, f"row {number}", what, ZONES))
        return time

    def _records(self, problems: Problems) -> Iterator[tuple[int, Any]]:
        """Numbered rows; the heading of a CSV is row 1."""
        name = self.path.name.lower()
        try:
            if name.endswith(log_names.PARQUET):
                yield from self._of_parquet(problems)
            elif name.endswith(log_names.CSV):
                yield from self._of_csv(problems)
            elif name.endswith(log_names.LINES):
                rows = values(self.path, problems, _FORMAT, "row")
                yield from ((number, value) for number, value in rows if not _is_reaction(value))
            else:
                raise BadDataError(f"{self.path.name} is no file of outcomes that can be read", _FORMAT)
        except (*UNREADABLE, csv.Error, pa.ArrowException) as error:
            why = " ".join(str(error).split())[:200]
            problems.add(BadDataError(f"{self.path.name} cannot be read to its end: {why}", _FORMAT))

    def _of_parquet(self, problems: Problems) -> Iterator[tuple[int, Any]]:
        with pq.ParquetFile(self.path) as file:
            self._check_columns(file.schema_arrow.names)
            columns = [column for column in _FIELDS if column in file.schema_arrow.names]
            rows = (row for batch in file.iter_batches(columns=columns) for row in plain_rows(batch))
            for number, row in enumerate(rows, 1):
                if isinstance(row, str):
                    problems.add(ProblemError(self.path.name, f"row {number}", row, _FORMAT))
                else:
                    yield number, row

    def _of_csv(self, problems: Problems) -> Iterator[tuple[int, Any]]:
        def text(numbered: Iterator[tuple[int, bytes]]) -> Iterator[str]:
            for number, line in numbered:
                try:
                    yield line.decode("utf-8-sig")
                except UnicodeDecodeError:
                    what = " is not UTF-8"
                    problems.add(ProblemError(self.path.name, f"line {number}", what, "Save the file as UTF-8."))
                    yield line.decode("utf-8-sig", "replace")

        with opened(self.path) as file:
            reader = csv.DictReader(text(enumerate(lines(file), 1)), strict=True)
            self._check_columns(reader.fieldnames or ())
            yield from enumerate(reader, 2)

    def _check_columns(self, names: Sequence[str]) -> None:
        """Raises BadDataError where the table has no ids, or a column whose meaning is not sure."""
        if "conversation_id" not in names:
            columns = ", ".join(map(show, names[:_MOST_NAMES])) or "no columns"
            divided = len(names) == 1 and re.search("[;\t|]", names[0]) is not None
            remedy = "Divide the columns by commas." if divided else _FORMAT
            raise BadDataError(f"{self.path.name} has no column conversation_id, but {columns}", remedy)
        check_unique(self.path.name, [name for name in names if name in _FIELDS])
        for unknown, field in misspelt(names, _FIELDS).items():
            raise BadDataError(
                f"{self.path.name}: unknown field {show(unknown)}", f"Rename it to {field}, or leave it out."
            )


def _is_reaction(value: Any) -> bool:
    """Whether a row is one of `data.reaction_file`, which may stand in the same file."""
    return isinstance(value, dict) and "reaction" in value and "outcome" not in value


def joined(reader: LogReader, outcomes: Outcomes | None) -> Iterator[Conversation]:
    """The log's conversations with their outcomes; what contradicts is collected with the log's other problems."""
    for conversation in reader.conversations():
        with reader.problems.collecting():
            try:
                complete = conversation if outcomes is None else outcomes.join(conversation)
            except BadDataError as error:
                raise ProblemError(reader.path.name, reader.place, error.message, error.remedy) from None
            if complete.turns[0].outcome:
                reader.leave_out(BEFORE)
            else:
                yield complete


def _with_time(conversation: Conversation, row: _Row | None) -> Conversation:
    """Turns that began after the outcome are past the end of the problem."""
    if row is not None and row.outcome and row.time is not None:
        for turn in conversation.turns:
            turn.outcome = turn.outcome or turn.started_at > row.time
    return conversation
