"""Parquet that is not as documented: each column in every type is read rightly, or refused with row and column."""

import datetime
import decimal
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.logs import read_log
from ippo_trainer.data.schema import SCHEMA

ROWS: dict[str, list[Any]] = {
    "conversation_id": ["a", "a", "b"],
    "turn": [0, 1, 0],
    "customer_message": ["hi", "more", "hey"],
    "suggestion": ["yes", None, "no"],
    "reaction": ["accepted", "rejected", "edited"],
    "sent_message": ["yes", "x", "nope"],
    "final_outcome": [True, True, False],
}
NOW = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
KINDS: dict[str, pa.Array] = {
    "null": pa.nulls(3),
    "bool": pa.array([True, True, False]),
    "int8": pa.array([1, 1, 0], pa.int8()),
    "uint64": pa.array([0, 1, 0], pa.uint64()),
    "huge": pa.array([2**63, 1, 0], pa.uint64()),
    "negative": pa.array([-1, 1, 0]),
    "two": pa.array([2, 1, 0]),
    "float": pa.array([1.0, 1.0, 0.0]),
    "half": pa.array([0.4, 1.0, 0.0], pa.float32()),
    "nan": pa.array([math.nan, 1.0, 0.0]),
    "infinite": pa.array([math.inf, 1.0, 0.0]),
    "decimal": pa.array([decimal.Decimal(1)] * 3),
    "text": pa.array(["true", "true", "false"]),
    "large text": pa.array(["a", "a", "b"], pa.large_string()),
    "text view": pa.array(["a", "a", "b"], pa.string_view()),
    "dictionary": pa.array(["a", "a", "b"]).dictionary_encode(),
    "dictionary of bools": pa.DictionaryArray.from_arrays(pa.array([0, 0, 1]), pa.array([1, 0])),
    "some null": pa.array(["a", None, "b"]),
    "null flags": pa.array([True, None, False]),
    "bytes": pa.array([b"a", b"\xff", b"b"]),
    "moments": pa.array([NOW] * 3),
    "naive": pa.array([NOW.replace(tzinfo=None)] * 3, pa.timestamp("ns")),
    "days": pa.array([NOW.date()] * 3),
    "durations": pa.array([datetime.timedelta(1)] * 3),
    "ids": pa.array([[1, 2], [3], []]),
    "big ids": pa.array([[2**40], [3], []]),
    "large lists": pa.array([[1], [2], []], pa.large_list(pa.int64())),
    "pairs": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int16(), 2)),
    "holes": pa.array([[1, None], [2], []]),
    "texts": pa.array([["a"], ["b"], []]),
    "struct": pa.array([{"x": 1}] * 3),
    "map": pa.array([[("x", 1)]] * 3, pa.map_(pa.string(), pa.int64())),
}
FLAGS = {"bool", "int8", "uint64", "float", "dictionary of bools"}
TEXTS = {"text", "large text", "text view", "dictionary"}
LISTS = {"null", "ids", "large lists", "pairs"}
READ: dict[str, set[str]] = {
    "conversation_id": TEXTS,
    "turn": {"uint64"},
    "customer_message": TEXTS,
    "suggestion": {*TEXTS, "some null"},
    "sent_message": TEXTS,
    "reaction": set(),
    "policy_digest": TEXTS,
    "behaviour": set(),
    "displayed": FLAGS,
    "final_outcome": FLAGS - {"uint64"},
    "censored": set(),
    "outcome": FLAGS,
    "token_ids": LISTS,
    "sampler_logprobs": {"null"},
    "started_at": {"moments", "naive"},
    "ended_at": {"moments", "naive"},
    "writer": TEXTS,
    "customer_id": TEXTS,
    "context": {*TEXTS, "some null", "null"},
    "tool_messages": {"texts", "null"},
}
"""Of the kinds above, those that mean a good log in that column; what is not here is refused."""


def write(folder: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), folder / "log.parquet")
    return folder / "log.parquet"


@pytest.mark.parametrize("column", SCHEMA.names)
def test_a_column_in_every_type(tmp_path: Path, column: str) -> None:
    for kind, values in KINDS.items():
        path = write(tmp_path, ROWS | {column: values})
        if kind in READ[column]:
            assert [len(conversation.turns) for conversation in read_log(path)] == [2, 1], kind
            continue
        with pytest.raises(BadDataError, match=r"log.parquet.*row \d, column ") as caught:
            raise AssertionError(f"{kind} is read as {read_log(path)}")
        assert caught.value.remedy, kind
        assert len(str(caught.value)) < 2000, kind


def test_what_is_read_is_read_rightly(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {name: pa.array(values).dictionary_encode() for name, values in ROWS.items()}
        | {
            "final_outcome": pa.array([1.0, 1.0, 0.0]),
            "turn": pa.array([0.0, 1.0, 0.0]),
            "token_ids": KINDS["pairs"],
            "started_at": KINDS["naive"],
        },
    )
    one, two = read_log(path)
    assert (one.id, one.outcome, two.outcome) == ("a", True, False)
    assert [turn.suggestion for turn in one.turns] == ["yes", None]
    assert [turn.token_ids for turn in one.turns] == [[1, 2], [3, 4]]
    assert two.turns[0].started_at == NOW.timestamp()


@given(
    rows=st.lists(
        st.one_of(st.booleans(), st.integers(-2, 2), st.floats(), st.none(), st.sampled_from([0.0, 1.0])),
        min_size=1,
        max_size=6,
    ),
    kind=st.sampled_from([pa.float64(), pa.float32(), pa.int64(), pa.int8(), pa.bool_()]),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_outcomes_are_what_they_say_or_refused(tmp_path: Path, rows: list[Any], kind: pa.DataType) -> None:
    try:
        outcomes = pa.array(rows, kind)
    except (pa.ArrowException, OverflowError):
        return
    count = len(rows)
    columns = {name: [values[0]] * count for name, values in ROWS.items()}
    columns |= {"conversation_id": [str(number) for number in range(count)], "final_outcome": outcomes}
    values = outcomes.to_pylist()
    path = write(tmp_path, columns)
    if all(value in (0, 1) for value in values):
        assert [found.outcome for found in read_log(path)] == [bool(value) for value in values]
    else:
        bad = next(row for row, value in enumerate(values) if value not in (0, 1))
        nulls = [row for row, value in enumerate(values) if value is None]
        with pytest.raises(BadDataError, match=rf"row {nulls[0] if nulls else bad}, column 'final_outcome'"):
            read_log(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"censord": [True, True, False]}, r"column 'censord'\. Rename it to 'censored'"),
        ({"finalOutcome": [True] * 3, "final_outcome": ...}, r"no column 'final_outcome'.*column 'finalOutcome'"),
        ({"suggestion": ..., "sent_message": ...}, r"no column 'suggestion', 'sent_message'"),
        ({"token_ids": [[1], [2], [2**40]]}, r"row 2, column 'token_ids'"),
        ({"token_ids": [None, [2, 2**40], [3]]}, r"row 1, column 'token_ids'"),
        ({"turn": [1, 0, 0]}, r"row 0, column 'turn' is 1 where 0 was expected"),
        ({"turn": [0, 0, 0]}, r"row 1, column 'turn' is 0 where 1 was expected"),
        ({"conversation_id": ["a", "b", "a"], "turn": [0, 0, 0], "final_outcome": [True] * 3}, r"row 2.*second time"),
        ({"customer_message": ["", "x", " "], "reaction": ["x", "rejected", "edited"]}, r"2 problems.*row 0.*row 2"),
        ({"customer_message": [None, "x", None]}, r"2 problems\. row 0, column 'customer_message' is null \(2 times"),
    ],
)
def test_rows_and_columns_that_are_wrong(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    columns = {name: values for name, values in (ROWS | change).items() if values is not ...}
    with pytest.raises(BadDataError, match=words):
        read_log(write(tmp_path, columns))


def test_a_column_twice_an_empty_file_and_broken_text(tmp_path: Path) -> None:
    names = [*ROWS, "final_outcome"]
    pq.write_table(
        pa.Table.from_arrays([*map(pa.array, ROWS.values()), pa.array([1, 1, 0])], names), tmp_path / "2.parquet"
    )
    with pytest.raises(BadDataError, match=r"column 'final_outcome' 2 times"):
        read_log(tmp_path / "2.parquet")
    empty = pa.table(ROWS).slice(0, 0)
    pq.write_table(empty, tmp_path / "0.parquet")
    with pytest.raises(BadDataError, match=r"no conversations"):
        read_log(tmp_path / "0.parquet")
    (tmp_path / "nothing.parquet").touch()
    with pytest.raises(BadDataError, match=r"nothing.parquet is no readable Parquet"):
        read_log(tmp_path / "nothing.parquet")
    broken = pa.StringArray.from_buffers(3, pa.array([0, 1, 2, 3], pa.int32()).buffers()[1], pa.py_buffer(b"a\xffb"))
    with pytest.raises(BadDataError, match=r"row 1, column 'sent_message': .*UTF-?8"):
        read_log(write(tmp_path, ROWS | {"sent_message": broken}))
