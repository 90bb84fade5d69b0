"""Parquet columns as the schema of turns wants them: read rightly whoever wrote the file, or refused with the row.

Arrow's own casts are generous: they make `True` of -1, of .4 and of NaN, and read texts as numbers and as times. Here a
type counts only if it can mean nothing else, and each value must be one that the column can hold.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.messages import show
from ippo_trainer.data.problems import ProblemError

_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view)
_HOW = "Write the column as {}, see docs/chat-logs.md; or give the log as .jsonl."


def check_unique(file: str, names: Sequence[str]) -> None:
    """Raises BadDataError where a column is there twice: which of the two counts, nobody said."""
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise BadDataError(f"{file} has a column {show(twice)} twice", "Keep one of them.")


def plain_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | str]:
    """Rows as plain Python values; of a row that holds what Python cannot hold, such as the year 35,678, why."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):
        for number in range(batch.num_rows):
            try:
                yield batch.slice(number, 1).to_pylist()[0]
            except (ValueError, OverflowError) as error:
                yield f" cannot be read: {' '.join(str(error).split()):.160}"


class Column:
    """One batch of a column.

    Args:
        file: name of the file, for errors.
        first: number of the batch's first row in the file.
        field: what the schema wants.
        values: what the file has.
    """

    def __init__(self, file: str, first: int, field: pa.Field, values: pa.Array) -> None:
        self._file, self._first, self._field = file, first, field
        while isinstance(values, pa.ExtensionArray):
            values = values.storage
        while pa.types.is_dictionary(values.type) or pa.types.is_run_end_encoded(values.type):
            encoded = pa.types.is_dictionary(values.type)
            values = values.dictionary_decode() if encoded else pc.run_end_decode(values)
        self._values = values

    def to_python(self) -> list[Any]:
        """Plain values; times as microseconds since 1970 UTC.

        Raises:
            ProblemError: a type or value that the column cannot have; names row and column.
        """
        field, values = self._field, self._values
        if pa.types.is_null(values.type):
            values = pa.nulls(len(values), field.type)
        if not field.nullable and values.null_count:
            row = values.is_null().to_pylist().index(True)
            self._fail(row, "is null", "Fill it or leave the row out.", values.null_count)
        try:
            if values.type != field.type:
                values = self._converter()(values, field.type)
            values.validate(full=True)  # texts must be UTF-8
            self._check_lists(values)
            if pa.types.is_timestamp(field.type):
                values = values.cast(pa.int64())
            plain: list[Any] = values.to_pylist()
        except (pa.ArrowException, UnicodeDecodeError) as error:
            row = self._first_bad_row()
            self._fail(row, f": {' '.join(str(error).split()):.160}", _HOW.format(field.type))
        return plain

    def _converter(self) -> Callable[[pa.Array, pa.DataType], pa.Array]:
        kind = self._field.type
        if pa.types.is_boolean(kind):
            return self._to_bool
        if pa.types.is_integer(kind):
            return self._to_int
        if pa.types.is_timestamp(kind):
            return self._to_time
        return self._to_list if pa.types.is_list(kind) else self._to_text

    def _to_text(self, values: pa.Array, kind: pa.DataType) -> pa.Array:
        if not any(test(values.type) for test in _TEXTS):
            self._refuse_type("texts")
        return values.cast(kind)

    def _to_bool(self, values: pa.Array, kind: pa.DataType) -> pa.Array:
        if not (pa.types.is_boolean(values.type) or pa.types.is_integer(values.type) or _is_float(values.type)):
            self._refuse_type("true and false, or 1 and 0")
        return self._only(values, lambda value: value in (0, 1), "true or false, or 1 or 0").cast(kind)

    def _to_int(self, values: pa.Array, kind: pa.DataType) -> pa.Array:
        if not (pa.types.is_integer(values.type) or _is_float(values.type)):
            self._refuse_type("whole numbers")
        low, high = -(1 << 31), (1 << 31) - 1
        whole = self._only(values, lambda value: value == value // 1 and low <= value <= high, "a whole number")
        return whole.cast(kind)

    def _to_time(self, values: pa.Array, kind: pa.DataType) -> pa.Array:
        if not pa.types.is_timestamp(values.type):
            self._refuse_type("timestamps")
        # Without a zone it is UTC, as the schema says; nanoseconds are more than it keeps.
        return values.cast(kind, safe=values.type.unit != "ns")

    def _to_list(self, values: pa.Array, kind: pa.DataType) -> pa.Array:
        if not any(test(values.type) for test in _LISTS):
            self._refuse_type("lists")
        inner = values.type.value_type
        if pa.types.is_string(kind.value_type):
            allowed = any(test(inner) for test in _TEXTS)
        elif pa.types.is_integer(kind.value_type):
            allowed = pa.types.is_integer(inner)
        else:
            allowed = pa.types.is_integer(inner) or _is_float(inner)
        if not (allowed or pa.types.is_null(inner)):
            self._refuse_type(f"lists of {kind.value_type}")
        if pa.types.is_large_list(values.type):  # as the schema's offsets
            values = values.cast(pa.list_(inner))
        return values.cast(kind)

    def _check_lists(self, values: pa.Array) -> None:
        if pa.types.is_list(values.type) and values.flatten().null_count:
            row = next(i for i, items in enumerate(values.to_pylist()) if items is not None and None in items)
            self._fail(row, "holds null within a list", "Leave the list out (null), or fill it.")

    def _only(self, values: pa.Array, good: Callable[[Any], bool], allowed: str) -> pa.Array:
        plain = values.to_pylist()
        bad = [row for row, value in enumerate(plain) if value is not None and not good(value)]
        if bad:
            self._fail(bad[0], f"is {plain[bad[0]]}", f"Only {allowed} can stand there.", len(bad))
        return values

    def _refuse_type(self, kind: str) -> NoReturn:
        self._fail(0, f"holds {self._values.type}, not {kind}", _HOW.format(self._field.type))

    def _first_bad_row(self) -> int:
        """The first row whose value alone cannot be read either."""
        for row in range(len(self._values)):
            try:
                value = self._values.take(pa.array([row]))  # of a slice, a cast sees all items of all lists
                if value.type != self._field.type:
                    value = self._converter()(value, self._field.type)
                value.validate(full=True)
            except (pa.ArrowException, ProblemError):
                return row
        return 0

    def _fail(self, row: int, what: str, remedy: str, count: int = 1) -> NoReturn:
        text = what if what.startswith(":") else f" {what}"
        raise ProblemError(
            self._file, f"row {self._first + row}", f", column {self._field.name!r}{text}", remedy, count
        )


def _is_float(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind))
