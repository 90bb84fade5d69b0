"""Turn Parquet: written and read in pieces, validated both ways."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.schema import (
    BEHAVIOURS,
    REACTIONS,
    SCHEMA,
    SCHEMA_VERSION,
    VERSION_KEY,
    Conversation,
    Turn,
)

_ROWS_PER_GROUP = 16384
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
}
_HOW = "Write turns with ippo_trainer.data.turns.write_turns, or give the log as .jsonl."


def write_turns(path: Path, conversations: Iterable[Conversation]) -> int:
    """Writes conversations to one Parquet file, row group by row group; returns the number of turns.

    Equal conversations give equal bytes. Nothing is written to `path` until all of it is valid.

    Raises:
        BadDataError: a conversation that `read_turns` would refuse.
    """
    partial = path.with_name(path.name + ".partial")
    count = 0
    seen: set[str] = set()
    try:
        with pq.ParquetWriter(partial, SCHEMA, compression="zstd", store_schema=True) as writer:
            rows: list[dict[str, Any]] = []
            for conversation in conversations:
                _check_conversation(conversation, seen, path.name, count)
                rows += _to_rows(conversation)
                count += len(conversation.turns)
                if len(rows) >= _ROWS_PER_GROUP:
                    writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
                    rows = []
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count


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


def iter_turns(paths: Path | Sequence[Path], imported: bool = False) -> Iterator[Conversation]:
    """As `read_turns`, one conversation at a time, and without a complaint about an empty file.

    Args:
        paths: files; a conversation does not go on from one file to the next.
        imported: a stranger's file: it may lack the version and the columns that have a natural default.
    """
    seen: set[str] = set()
    for path in [paths] if isinstance(paths, Path) else paths:
        yield from _read_file(path, seen, imported)


def _read_file(path: Path, seen: set[str], imported: bool) -> Iterator[Conversation]:
    current: Conversation | None = None
    first = number = 0
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        missing = isinstance(error, FileNotFoundError)
        problem = "does not exist" if missing else f"is no readable Parquet file: {_line(error)}"
        raise BadDataError(f"{path.name} {problem}", "Check the path." if missing else _HOW) from error
    with file:
        _check_schema(path, file.schema_arrow, imported)
        columns = [name for name in SCHEMA.names if name in file.schema_arrow.names]
        for batch in _batches(path, file, columns):
            for row in _to_records(path, batch, number):
                if current is None or row["conversation_id"] != current.id:
                    if current is not None:
                        _check_conversation(current, seen, path.name, first)
                        yield current
                    current = Conversation(row["conversation_id"], [], row["final_outcome"], row["censored"])
                    first = number
                _check_row(path, number, row, current)
                current.turns.append(_to_turn(row))
                number += 1
    if current is not None:
        _check_conversation(current, seen, path.name, first)
        yield current


def _batches(path: Path, file: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        yield from file.iter_batches(batch_size=_ROWS_PER_GROUP, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise BadDataError(f"{path.name} is damaged: {_line(error)}", "Fetch or make the file again.") from error


def _check_schema(path: Path, schema: pa.Schema, imported: bool) -> None:
    version = (schema.metadata or {}).get(VERSION_KEY)
    if version != str(SCHEMA_VERSION).encode() and not (imported and version is None):
        found = "no schema version" if version is None else f"schema version {version.decode(errors='replace')}"
        raise BadDataError(f"{path.name} has {found}, this release reads {SCHEMA_VERSION}", _HOW)
    for name in SCHEMA.names:
        if name not in schema.names and not (imported and name in _DEFAULTS):
            raise BadDataError(f"{path.name} has no column {name!r}", _HOW)


def _to_records(path: Path, batch: pa.RecordBatch, number: int) -> list[dict[str, Any]]:
    """Rows as plain Python values, checked for type and null; timestamps as microseconds."""
    columns: dict[str, list[Any]] = {}
    for field in SCHEMA:
        if field.name not in batch.schema.names:
            columns[field.name] = [_DEFAULTS[field.name]] * batch.num_rows
            continue
        values = batch.column(field.name)
        try:
            if pa.types.is_string(field.type) and (
                pa.types.is_floating(values.type) or pa.types.is_integer(values.type)
            ):
                raise pa.ArrowTypeError(f"holds numbers ({values.type}), not texts")  # a cast would spell NaN "nan"
            if values.type != field.type:
                values = values.cast(field.type)
            columns[field.name] = (values.cast(pa.int64()) if pa.types.is_timestamp(field.type) else values).to_pylist()
        except pa.ArrowException as error:
            rows = f"rows {number} to {number + batch.num_rows - 1}"
            raise BadDataError(f"{path.name}, {rows}, column {field.name!r}: {_line(error)}", _HOW) from error
        if not field.nullable and values.null_count:
            row = number + columns[field.name].index(None)
            raise BadDataError(
                f"{path.name}, row {row}, column {field.name!r} is null", "Fill it or leave the row out."
            )
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _check_row(path: Path, number: int, row: dict[str, Any], conversation: Conversation) -> None:
    """What only the file's row can show: order, and conversation columns that change within one."""
    if row["turn"] != len(conversation.turns):
        raise BadDataError(
            f"{path.name}, row {number}, column 'turn' is {row['turn']} where {len(conversation.turns)} was expected "
            f"in conversation {conversation.id!r}",
            "Sort the rows by conversation_id and turn; turns count from 0 without gaps.",
        )
    for column, value in (("final_outcome", conversation.outcome), ("censored", conversation.censored)):
        if row[column] != value:
            raise BadDataError(
                f"{path.name}, row {number}, column {column!r} changes within conversation {conversation.id!r}",
                "It belongs to the conversation: repeat it on each of its rows.",
            )


def _check_conversation(conversation: Conversation, seen: set[str], name: str, first_row: int) -> None:
    """Raises BadDataError that names file, row and column unless the conversation is a valid one, not seen before."""

    def fail(index: int, column: str, problem: str, remedy: str) -> None:
        where = f"{name}, row {first_row + index}, column {column!r}"
        raise BadDataError(f"{where} (conversation {conversation.id!r}, turn {index}) {problem}", remedy)

    if not conversation.id:
        fail(0, "conversation_id", "is empty", "Give every conversation an id of its own.")
    if conversation.id in seen:
        fail(0, "conversation_id", "comes a second time", "Keep a conversation's rows together, each one once.")
    seen.add(conversation.id)
    if not conversation.turns:
        fail(0, "turn", "has no turns", "Leave conversations without a turn out.")
    if conversation.censored and conversation.outcome:
        fail(0, "censored", "is true although the outcome came", "An open conversation has no outcome yet.")
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
    if not (math.isfinite(turn.started_at) and math.isfinite(turn.ended_at)):
        return "started_at", "or 'ended_at' is not finite", "Give seconds since 1970 UTC."
    if turn.sampler_logprobs is not None:
        if turn.token_ids is None or len(turn.token_ids) != len(turn.sampler_logprobs):
            return "sampler_logprobs", "has not one number per token id", "Log both or neither."
        if not all(map(math.isfinite, turn.sampler_logprobs)):
            return "sampler_logprobs", "holds NaN or infinity", "The sampler is broken: collect again."
    return None


def _to_rows(conversation: Conversation) -> list[dict[str, Any]]:
    return [
        {
            "conversation_id": conversation.id,
            "turn": index,
            "customer_message": turn.customer_message,
            "outcome": turn.outcome,
            "suggestion": turn.suggestion,
            "reaction": turn.reaction,
            "sent_message": turn.sent_message,
            "displayed": turn.displayed,
            "policy_digest": turn.policy_digest,
            "behaviour": turn.behaviour,
            "token_ids": turn.token_ids,
            "sampler_logprobs": turn.sampler_logprobs,
            "started_at": round(turn.started_at * _MICROSECONDS),
            "ended_at": round(turn.ended_at * _MICROSECONDS),
            "censored": conversation.censored,
            "final_outcome": conversation.outcome,
        }
        for index, turn in enumerate(conversation.turns)
    ]


def _to_turn(row: dict[str, Any]) -> Turn:
    return Turn(
        customer_message=row["customer_message"],
        suggestion=row["suggestion"],
        reaction=row["reaction"],
        sent_message=row["sent_message"],
        outcome=row["outcome"],
        displayed=row["displayed"],
        policy_digest=row["policy_digest"],
        behaviour=row["behaviour"],
        token_ids=row["token_ids"],
        sampler_logprobs=row["sampler_logprobs"],
        started_at=row["started_at"] / _MICROSECONDS,
        ended_at=row["ended_at"] / _MICROSECONDS,
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
