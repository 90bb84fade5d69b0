"""Logs as other tools write them: OpenAI's and ShareGPT's exports, parquet with messages, without ids, in two parts."""

import gzip
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data import arrays
from ippo_trainer.data.logs import LogReader, read_log
from ippo_trainer.data.schema import Conversation
from ippo_trainer.data.turns import write_turns

ASKED = {"role": "user", "content": "do you have tea?"}
SAID = {"role": "assistant", "content": "yes"}


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def pairs(conversation: Conversation) -> list[tuple[str, str]]:
    return [(turn.customer_message, turn.sent_message) for turn in conversation.turns]


def test_an_export_of_openai(tmp_path: Path) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "stock", "arguments": "{}"}}
    line = {
        "id": "chatcmpl-1",
        "model": "gpt",
        "outcome": True,
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "Sell."}]},
            {"role": "user", "content": [{"type": "text", "text": "tea"}, {"type": "image_url", "image_url": {}}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "12 boxes"},
            {"role": "assistant", "content": [{"type": "text", "text": "we "}, {"type": "text", "text": "have 12"}]},
        ],
    }
    reader = LogReader(write(tmp_path / "a.jsonl", line))
    [conversation] = reader
    assert (conversation.id, conversation.outcome) == ("chatcmpl-1", True)
    assert pairs(conversation) == [("tea", "we have 12")]
    assert (conversation.context, conversation.turns[0].tool_messages) == ("Sell.", ("12 boxes",))
    assert reader.omissions == {
        "calls of tools": 1,
        "parts of messages that are no text": 1,
    }


def test_an_export_of_sharegpt(tmp_path: Path) -> None:
    line = {
        "id": "sg-1",
        "conversations": [
            {"from": "system", "value": "Sell."},
            {"from": "human", "value": "tea"},
            {"from": "gpt", "value": "yes"},
        ],
    }
    [conversation] = read_log(write(tmp_path / "a.jsonl", line))
    assert (conversation.id, pairs(conversation), conversation.censored) == ("sg-1", [("tea", "yes")], True)
    assert conversation.context == "Sell."
    line["conversations"].append({"from": "robot", "value": "x"})  # type: ignore[attr-defined]
    with pytest.raises(BadDataError, match=r'line 1: conversations\[3\].from is "robot"'):
        read_log(write(tmp_path / "b.jsonl", line))


def test_ids_are_optional_and_come_of_what_is_said(tmp_path: Path) -> None:
    one, other = {"messages": [ASKED, SAID]}, {"messages": [ASKED, {**SAID, "content": "no"}]}
    reader = LogReader(write(tmp_path / "a.jsonl", one, other, one))
    first, second, third = (conversation.id for conversation in reader)
    assert first.startswith("log-")
    assert second.startswith("log-")
    assert second != first
    assert third == f"{first}-2"
    assert reader.alike == 1
    [alone] = read_log(write(tmp_path / "b.jsonl", one))
    assert alone.id == first  # wherever it stands


def test_writers_customers_and_times(tmp_path: Path) -> None:
    line = {
        "writer": "night bot",
        "customer_id": 7,
        "messages": [
            {**ASKED, "time": "2026-01-31T12:00:00+01:00"},
            {**SAID, "created_at": 1769857260},
            {**ASKED, "timestamp": 1769857320000},
            {**SAID, "writer": "people", "time": "yesterday"},
        ],
    }
    [conversation] = read_log(write(tmp_path / "a.jsonl", line))
    one, two = conversation.turns
    assert conversation.customer_id == "7"
    assert (one.writer, two.writer) == ("night bot", "people")
    noon = datetime(2026, 1, 31, 11, tzinfo=UTC).timestamp()
    assert (one.started_at, one.ended_at, two.started_at, two.ended_at) == (noon, noon + 60, noon + 120, 0.0)
    for field, value in (("writer", 5), ("writer", " "), ("customer_id", [])):
        with pytest.raises(BadDataError, match=f"line 1: .*{field} is "):
            read_log(write(tmp_path / "b.jsonl", {**line, field: value}))


def test_parquet_with_a_column_of_messages(tmp_path: Path) -> None:
    abstained = {**SAID, "suggestion": None, "reaction": "rejected"}
    edited = {**SAID, "suggestion": "yep", "reaction": "edited"}
    rows = [
        {"conversation_id": f"c{number}", "messages": [ASKED, reply], "outcome": outcome}
        for number, (reply, outcome) in enumerate([(SAID, True), (abstained, False), (edited, None)])
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    conversations = read_log(tmp_path / "a.parquet")
    turns = [conversation.turns[0] for conversation in conversations]
    assert [(turn.suggestion, turn.reaction) for turn in turns] == [
        ("yes", "accepted"),  # a column that others fill is null where a message has no such field
        (None, "rejected"),
        ("yep", "edited"),
    ]
    assert [(c.outcome, c.censored) for c in conversations] == [(True, False), (False, False), (False, True)]
    rows[1]["messages"] = [{"role": "robot", "content": "x"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    with pytest.raises(BadDataError, match=r'b.parquet, row 1: messages\[0\].role is "robot"'):
        read_log(tmp_path / "b.parquet")


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "parquet", "turns"])
def test_a_reader_goes_on_where_another_one_was(ending: str, tmp_path: Path) -> None:
    lines = [{"conversation_id": f"c{n}" if n % 2 else None, "messages": [ASKED, SAID]} for n in range(150)]
    path = tmp_path / f"log.{'parquet' if ending == 'turns' else ending}"
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(lines), path, row_group_size=40)
    elif ending == "turns":
        write_turns(path, read_log(write(tmp_path / "plain.jsonl", *lines)))
    else:
        path.write_bytes(gzip.compress(text.encode()) if ending.endswith("gz") else text.encode())
    whole = list(LogReader(path))
    for stop in (1, 39, 40, 64, 65, 149):
        reader = LogReader(path)
        stream = reader.conversations()
        before = [next(stream) for _ in range(stop)]
        position = json.loads(json.dumps(reader.position()))
        later = LogReader(path, position=position)
        after = list(later)
        assert [c.id for c in before + after] == [c.id for c in whole]
        assert later.count == 150


WORDS = ["role", "content", "messages", "from", "value", "type", "text", "conversations", "id", "writer", "tool_calls"]


@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
@given(
    st.lists(
        st.dictionaries(st.text(max_size=3), st.recursive(st.text(max_size=4), st.lists, max_leaves=3)), max_size=4
    )
)
def test_the_items_of_an_array_are_those_that_json_reads(piece: int, items: list[dict[str, Any]]) -> None:
    before, arrays._PIECE = arrays._PIECE, piece
    try:
        for indent in (None, 1):
            data = json.dumps(items, indent=indent, ensure_ascii=indent is None).encode("utf-8", "surrogatepass")
            assert [json.loads(each) for each in arrays.array_items(io.BytesIO(data), 1 << 20)] == items
    finally:
        arrays._PIECE = before


def test_a_file_that_is_one_array(tmp_path: Path) -> None:
    lines = [
        {"id": f"sg-{n}", "conversations": [{"from": "human", "value": "[{"}, {"from": "gpt", "value": "}"}]}
        for n in range(9)
    ]
    text = json.dumps(lines, indent=2)
    (tmp_path / "a.json").write_text(text)
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("a.json", "a.json.gz"):
        assert [conversation.id for conversation in read_log(tmp_path / name)] == [f"sg-{n}" for n in range(9)]
    stream = (reader := LogReader(tmp_path / "a.json")).conversations()
    before = [next(stream).id for _ in range(4)]
    after = [each.id for each in LogReader(tmp_path / "a.json", position=json.loads(json.dumps(reader.position())))]
    assert before + after == [f"sg-{n}" for n in range(9)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "does not begin with"),
        ("[1]", "'1' where an object was expected"),
        ('[{"messages": []}', "no ]"),
        ('[{"messages": [', "the last item has no end"),
        ('[{"messages": 1}, {"x" 2}]', r"2 problems.*item 1: messages is 1.*item 2 is not JSON"),
    ],
)
def test_arrays_that_are_none(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BadDataError, match=words):
        read_log(tmp_path / "a.json")


NAMES = st.sampled_from(WORDS)
ROLES = st.sampled_from(["user", "assistant", "gpt", "tool"])
SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | ROLES
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)


@given(ANYTHING)
def test_whatever_a_line_holds_it_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = write(tmp_path_factory.getbasetemp() / "any.jsonl", value, {"messages": [value, ASKED, SAID]})
    refusal = BadDataError("any.jsonl can be read", "Read it.")
    try:
        read_log(path)
    except BadDataError as error:
        refusal = error
    assert refusal.remedy
    assert "any.jsonl" in refusal.message


@pytest.mark.parametrize("rest", ["[]", "x", "[{}]", "]", "null"])
def test_nothing_of_a_file_is_passed_over_behind_its_array(rest: str, tmp_path: Path) -> None:
    """As of two exports that were concatenated."""
    text = json.dumps([{"messages": [ASKED, SAID]}])
    (tmp_path / "a.json").write_text(f"{text} \n")
    assert len(read_log(tmp_path / "a.json")) == 1
    (tmp_path / "a.json").write_text(f"{text}\n{rest}")
    with pytest.raises(BadDataError, match=r"item 2: '.' after the array's end.*one JSON array"):
        read_log(tmp_path / "a.json")


CELLS = {
    "far seconds": pa.array([1, 1 << 50], pa.timestamp("s")),
    "far microseconds": pa.array([1, 1 << 62], pa.timestamp("us")),
    "far days": pa.array([1, 1 << 30], pa.date32()),
    "no UTF-8": pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xff\xfe")]
    ),
}


@pytest.mark.parametrize("kind", CELLS)
def test_cells_of_parquet_that_python_cannot_hold_are_named_by_row(kind: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"messages": [[ASKED, SAID]] * 2, "time": CELLS[kind]}), tmp_path / "a.parquet")
    with pytest.raises(BadDataError, match=r"a.parquet, row 1 cannot be read"):
        read_log(tmp_path / "a.parquet")


def test_a_column_that_is_there_twice(tmp_path: Path) -> None:
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array([[ASKED, SAID]])]
    pq.write_table(pa.Table.from_arrays(columns, names=["id", "id", "messages"]), tmp_path / "a.parquet")
    with pytest.raises(BadDataError, match='column "id" twice'):
        read_log(tmp_path / "a.parquet")
