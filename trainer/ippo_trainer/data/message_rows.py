"""Rows of parquet that hold a conversation each, as lines of JSON have it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ippo_trainer.data.context import CONTEXT

LISTS: Sequence[str] = ("messages", "conversations")
"""Fields that hold the messages; the second is ShareGPT's."""


def holds_messages(path: Path) -> bool:
    """Whether it is parquet with a column of messages."""
    try:
        names = pq.read_schema(path).names
    except (OSError, pa.ArrowException):
        return False  # `iter_turns` says what is wrong
    return any(name in names for name in LISTS)


def present(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the nulls that parquet has where a field is missing. An abstention is a rejected suggestion."""
    for name in LISTS:
        if isinstance(row.get(name), list):
            row[name] = [_present_message(message) for message in row[name]]
    row[CONTEXT] = _without_nulls(row.get(CONTEXT))
    return {name: value for name, value in row.items() if value is not None}


def _present_message(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    abstained = message.get("suggestion") is None and message.get("reaction") == "rejected"
    kept = {name: value for name, value in message.items() if value is not None}
    return kept | ({"suggestion": None} if abstained else {})


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
