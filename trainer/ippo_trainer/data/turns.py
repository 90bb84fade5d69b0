"""Turn Parquet: written and read in pieces, validated both ways."""

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.columns import Column
from ippo_trainer.data.context import CONTEXT, check_tool_messages, context_of
from ippo_trainer.data.messages import LOGPROBS, is_logprob, show
from ippo_trainer.data.problems import ProblemError, Problems
from ippo_trainer.data.reactions import REACTIONS
from ippo_trainer.data.schema import (
    BEHAVIOURS,
    NEW_COLUMNS,
    OPTIONAL,
    READABLE,
    SCHEMA_VERSION,
    VERSION_KEY,
    WIDE_SCHEMA,
    Conversation,
    Turn,
)
from ippo_trainer.data.spelling import misspelt

_ROWS_PER_GROUP, _CHARACTERS_PER_GROUP = 16384, 32 << 20
_ROWS_PER_BATCH = 512
"""A stranger may repeat a long context in every row."""
_MICROSECONDS = 1_000_000
# What an imported log need not say.
_DEFAULTS: dict[str, Any] = {
    "outcome": False,
    "displayed": True,
    "policy_digest": "",
    "behaviour": "log",
    "token_ids": None,
    "sampler_logprobs": None,
    "started_at": 0,
    "ended_at": 0,
    "censored": False,
    **OPTIONAL,
    **NEW_COLUMNS,
}
_TIME_COLUMNS = ("started_at", "ended_at")
"""Seconds in a Turn, microseconds in a file."""
_TURN_COLUMNS = tuple(field.name for field in fields(Turn) if field.name not in _TIME_COLUMNS)
_ROWS = "Write a row for each turn with these columns, or one for each conversation with a column messages."
_AGAIN = "Fetch or make the file again."
_HOW = "Write turns with ippo_trainer.data.turns.write_turns, or give the log as .jsonl."


def write_turns(path: Path, conversations: Sequence[Conversation]) -> int:
    """Writes conversations to one Parquet file, row group by row group; returns the number of turns.

    Equal conversations give equal bytes. Nothing is written to `path` until all of it is valid.

    Args:
        path: of the file.
        conversations: in order.

    Raises:
        BadDataError: a conversation that `read_turns` would refuse.
    """
    partial = path.with_name(path.name + ".partial")
    count = 0
    ids: dict[str, str] = {}
    unused = [name for name, usual in OPTIONAL.items() if all(getattr(each, name) == usual for each in conversations)]
    schema = pa.schema([field for field in WIDE_SCHEMA if field.name not in unused], WIDE_SCHEMA.metadata)
    try:
        with pq.ParquetWriter(partial, schema, compression="zstd", store_schema=True) as writer:
            rows: list[dict[str, Any]] = []
            size = 0
            for conversation in conversations:
                _check_conversation(conversation, ids, path.name, count)
                rows += _to_rows(conversation)
                count += len(conversation.turns)
                size += characters(conversation)
                if len(rows) >= _ROWS_PER_GROUP or size >= _CHARACTERS_PER_GROUP:
                    writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                    rows, size = [], 0
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def characters(conversation: Conversation) -> int:
    """Of all its texts."""
    return len(conversation.context) + sum(
        len(turn.customer_message)
        + len(turn.suggestion or "")
        + len(turn.sent_message)
        + sum(map(len, turn.tool_messages))
        for turn in conversation.turns
    )


def read_turns(paths: Path | Sequence[Path]) -> list[Conversation]:
    """All conversations of one or more files, in order.

    Raises:
        BadDataError: names file, row and column: no Parquet, wrong schema version, missing or mistyped column, null,
            NaN, empty customer message, unknown reaction, turns out of order, a conversation twice, no conversation.
    """
    conversations = list(iter_turns(paths))
    if not conversations:
        names = paths.name if isinstance(paths, Path) else ", ".join(path.name for path in paths)
        raise BadDataError(f"no conversations in {names or 'no files'}", "Collect or log some first.")
    return conversations


def iter_turns(paths: Path | Sequence[Path], problems: Problems | None = None) -> Iterator[Conversation]:
    """As `read_turns`, one conversation at a time, and without a complaint about an empty file.

    Args:
        paths: files; a conversation does not go on from one file to the next.
        problems: of a stranger's file, which may lack the version and the columns that have a natural default; what is
            wrong with it is added. None: the first problem is raised.
    """
    ids: dict[str, str] = {}
    for path in [paths] if isinstance(paths, Path) else paths:
        yield from _read_file(path, ids, problems)


def columns_without_zone(path: Path) -> list[str]:
    """Columns of times that say no zone; none of a file that cannot be read."""
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException):
        return []
    kinds = {name: schema.field(name).type for name in _TIME_COLUMNS if schema.names.count(name) == 1}
    return [name for name, kind in kinds.items() if pa.types.is_timestamp(kind) and kind.tz is None]


def _read_file(path: Path, ids: dict[str, str], problems: Problems | None) -> Iterator[Conversation]:
    collecting = problems.collecting if problems is not None else nullcontext
    reader = _ConversationReader(path.name, ids)
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        missing = isinstance(error, FileNotFoundError)
        problem = "does not exist" if missing else f"is no readable Parquet file: {_line(error)}"
        raise BadDataError(f"{path.name} {problem}", "Check the path." if missing else _AGAIN) from error
    with file:
        if not _check_schema(path.name, file.schema_arrow, problems):
            return
        columns = [name for name in WIDE_SCHEMA.names if name in file.schema_arrow.names]
        for batch in _batches(path, file, columns):
            records: list[dict[str, Any]] = []
            with collecting():
                records = _to_records(path.name, batch, reader.number, problems)
            if not records:
                reader.skip(batch.num_rows)
            for row in records:
                with collecting():
                    before = reader.take(row)
                    if before is not None:
                        yield before
    with collecting():
        last = reader.end()
        if last is not None:
            yield last


class _ConversationReader:
    """Makes conversations of rows, one after another."""

    def __init__(self, name: str, ids: dict[str, str]) -> None:
        self._name, self._ids = name, ids
        self._current: Conversation | None = None
        self._first = 0
        self._bad = False
        self.number = 0
        """Of the next row."""

    def skip(self, rows: int) -> None:
        """Rows that cannot be read."""
        self._current, self._bad = None, True
        self.number += rows

    def take(self, row: dict[str, Any]) -> Conversation | None:
        """Takes the next row; returns the conversation before it if the row begins another one.

        Raises ProblemError for either, once per conversation.
        """
        number = self.number
        self.number += 1
        before: Conversation | None = None
        problem: BadDataError | None = None
        if self._current is None or row["conversation_id"] != self._current.id:
            try:
                before = self.end()
            except BadDataError as error:
                problem = error
            ending = row["final_outcome"], row["censored"], row["customer_id"], row[CONTEXT] or ""
            self._current = Conversation(row["conversation_id"], [], *ending, *(row[name] for name in OPTIONAL))
            self._first, self._bad = number, False
        if not self._bad:
            self._bad = True
            _check_row(self._name, number, row, self._current)
            self._bad = False
        self._current.turns.append(_to_turn(row))
        if problem is not None:
            raise problem
        return before

    def end(self) -> Conversation | None:
        """The conversation that no more rows belong to, if it is a good one."""
        current, self._current = self._current, None
        if current is None or self._bad:
            return None
        _check_conversation(current, self._ids, self._name, self._first)
        return current


def _batches(path: Path, file: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        yield from file.iter_batches(batch_size=_ROWS_PER_BATCH, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise BadDataError(f"{path.name} is damaged: {_line(error)}", _AGAIN) from error


def _check_schema(name: str, schema: pa.Schema, problems: Problems | None) -> bool:
    """Whether its rows can be read; what is wrong is added to a stranger's problems, and else raised."""
    imported = problems is not None
    version = (schema.metadata or {}).get(VERSION_KEY)
    optional: dict[str, Any] = _DEFAULTS if imported else OPTIONAL | (NEW_COLUMNS if version == b"1" else {})
    if version not in [str(each).encode() for each in READABLE] and not (imported and version is None):
        version_text = "no schema version" if version is None else f"schema version {version.decode(errors='replace')}"
        raise BadDataError(f"{name} has {version_text}, this release reads {SCHEMA_VERSION}", _HOW)
    wrong = Problems(name) if problems is None else problems
    before = wrong.total
    for column in WIDE_SCHEMA.names:
        if schema.names.count(column) > 1:
            wrong.add(BadDataError(f"{name} has column {column!r} {schema.names.count(column)} times", "Keep one."))
    missing = [column for column in WIDE_SCHEMA.names if column not in schema.names and column not in optional]
    if missing:
        remedy = _ROWS if imported else _HOW
        wrong.add(BadDataError(f"{name} has no column {', '.join(map(repr, missing))}", remedy))
    for column, field in misspelt(schema.names, WIDE_SCHEMA.names).items():
        wrong.add(BadDataError(f"{name} has a column {column!r}", f"Rename it to {field!r}, or leave it out."))
    if problems is None:
        wrong.check()
    return wrong.total == before


def _to_records(name: str, batch: pa.RecordBatch, number: int, problems: Problems | None) -> list[dict[str, Any]]:
    """Rows as plain Python values, checked for type and null; timestamps as microseconds."""
    columns: dict[str, list[Any]] = {}
    collecting = problems.collecting if problems is not None else nullcontext
    for field in WIDE_SCHEMA:
        if field.name not in batch.schema.names:
            columns[field.name] = [_DEFAULTS[field.name]] * batch.num_rows
            continue
        with collecting():
            columns[field.name] = Column(name, number, field, batch.column(field.name)).to_python()
    if len(columns) < len(WIDE_SCHEMA.names):
        return []
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _check_row(name: str, number: int, row: dict[str, Any], conversation: Conversation) -> None:
    """What only the file's row can show: order, and conversation columns that change within one."""
    if row["turn"] != len(conversation.turns):
        raise ProblemError(
            name,
            f"row {number}",
            f", column 'turn' is {row['turn']} where {len(conversation.turns)} was expected "
            f"in conversation {conversation.id!r:.100}",
            "Sort the rows by conversation_id and turn; turns count from 0 without gaps.",
        )
    shared = {
        "final_outcome": conversation.outcome,
        "censored": conversation.censored,
        "customer_id": conversation.customer_id,
        **{name: getattr(conversation, name) for name in OPTIONAL},
    }
    if row[CONTEXT]:  # a stranger may repeat it
        shared[CONTEXT] = conversation.context
    for column, value in shared.items():
        if row[column] != value:
            raise ProblemError(
                name,
                f"row {number}",
                f", column {column!r} changes within conversation {conversation.id!r:.100}",
                "It belongs to the conversation: repeat it on each of its rows.",
            )


def _check_conversation(conversation: Conversation, ids: dict[str, str], name: str, first_row: int) -> None:
    """Raises a ProblemError that names file, row and column unless the conversation is a valid one, not seen before."""

    def fail(index: int, column: str, problem: str, remedy: str) -> None:
        what = f", column {column!r} (conversation {conversation.id!r:.100}, turn {index}) {problem}"
        raise ProblemError(name, f"row {first_row + index}", what, remedy)

    if not conversation.id:
        fail(0, "conversation_id", "is empty", "Give every conversation an id of its own.")
    if conversation.id in ids:
        again = f"comes a second time, after {ids[conversation.id]}"
        fail(0, "conversation_id", again, "Keep a conversation's rows together, each one once.")
    ids[conversation.id] = f"row {first_row} of {name}"
    if not conversation.turns:
        fail(0, "turn", "has no turns", "Leave conversations without a turn out.")
    if conversation.went_on and not conversation.censored:
        fail(0, "went_on", "is true although the end is known", "Only a censored conversation has it.")
    if conversation.censored and conversation.outcome:
        fail(0, "censored", "is true although the outcome came", "An open conversation has no outcome yet.")
    problem = _context_problem(conversation)
    if problem:
        fail(0, *problem)
    before = False
    for index, turn in enumerate(conversation.turns):
        problem = _turn_problem(turn)
        if problem:
            fail(index, *problem)
        if before and not turn.outcome:
            fail(index, "outcome", "is false after it was true", "An outcome that came does not go away.")
        before = turn.outcome
    if before and not conversation.outcome:
        fail(0, "final_outcome", "is false although a turn has the outcome before it", "Set it to true.")


def _context_problem(conversation: Conversation) -> tuple[str, str, str] | None:
    try:
        context_of("", conversation.context)
    except BadDataError as error:
        return CONTEXT, error.message.strip(), error.remedy
    return None


def _turn_problem(turn: Turn) -> tuple[str, str, str] | None:
    """Column, problem and remedy of the first thing wrong with a turn."""
    if not turn.customer_message.strip():
        return "customer_message", "is empty", "A state needs a message to answer: leave the turn out."
    if turn.reaction not in REACTIONS:
        return "reaction", f"is {turn.reaction!r}", f"Use one of {', '.join(REACTIONS)}."
    if turn.suggestion is None and turn.reaction != "rejected":
        return "reaction", f"is {turn.reaction!r} without a suggestion", "An abstention is always rejected."
    if turn.behaviour not in BEHAVIOURS:
        return "behaviour", f"is {turn.behaviour!r}", f"Use one of {', '.join(BEHAVIOURS)}."
    try:
        check_tool_messages("", turn.tool_messages)
    except BadDataError as error:
        return "tool_messages", error.message.strip(), error.remedy
    if not (math.isfinite(turn.started_at) and math.isfinite(turn.ended_at)):
        return "started_at", "or 'ended_at' is not finite", "Give seconds since 1970 UTC."
    if turn.sampler_logprobs is not None:
        if turn.token_ids is None or len(turn.token_ids) != len(turn.sampler_logprobs):
            return "sampler_logprobs", "has not one number per token id", "Log both or neither."
        bad = next((each for each in turn.sampler_logprobs if not is_logprob(each)), None)
        if bad is not None:
            return "sampler_logprobs", f"holds {show(bad)}", f"It has to hold {LOGPROBS}."
    return None


def _to_rows(conversation: Conversation) -> list[dict[str, Any]]:
    shared = {
        "conversation_id": conversation.id,
        "censored": conversation.censored,
        "final_outcome": conversation.outcome,
        "customer_id": conversation.customer_id,
        **{name: getattr(conversation, name) for name in OPTIONAL},
    }
    return [
        shared
        | {"turn": index, CONTEXT: "" if index else conversation.context}
        | {name: getattr(turn, name) for name in _TURN_COLUMNS}
        | {name: round(getattr(turn, name) * _MICROSECONDS) for name in _TIME_COLUMNS}
        for index, turn in enumerate(conversation.turns)
    ]


def _to_turn(row: dict[str, Any]) -> Turn:
    times = {name: row[name] / _MICROSECONDS for name in _TIME_COLUMNS}
    values = {name: row[name] for name in _TURN_COLUMNS}
    return Turn(**values | {"tool_messages": tuple(row["tool_messages"] or ())}, **times)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
