"""What an agent is given besides the dialogue: one text for equal values, bounded, in all logs and on disk."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.context import CONTEXT, LONGEST, TOOLS, context_of, kinds_in, tool_messages_of
from ippo_trainer.data.logs import LogReader, read_log
from ippo_trainer.data.messages import read_state
from ippo_trainer.data.schema import SCHEMA, VERSION_KEY, Conversation, Turn
from ippo_trainer.data.turns import read_turns, write_turns

LEAF = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    | st.sampled_from(["yes", "a b", "x: y", "- z", "a #b", "1:30", "~", "2020-01-01", "a\nb: 1", "[accepted]"])
)
KEY = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(["a", "yes", "a: b"])
VALUE = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEY, inner, max_size=4), max_leaves=16
)
SHOP = {
    "prices": {"tea": 4.5, "cake": 3.0},
    "open": True,
    "name": "Ana\nopen: false",
    "till": None,
    "days": ["Mo", "Tu"],
}
TEXT = """days:
  - Mo
  - Tu
name: "Ana\\nopen: false"
open: true
prices:
  cake: 3
  tea: 4.5
till: null"""


@given(st.dictionaries(KEY, VALUE, min_size=1))
def test_json_becomes_one_text_that_yaml_reads_as_the_same_value(value: dict[str, Any]) -> None:
    text = context_of("context", value)
    assert yaml.safe_load(text) == value
    items = list(value.items())
    random.Random(0).shuffle(items)
    assert context_of("context", dict(items)) == text
    assert all(line.isprintable() or not line.isascii() for line in text.split("\n"))


def test_it_is_legible() -> None:
    assert context_of("context", SHOP) == TEXT
    assert context_of("context", " as it is: [accepted]\n") == "as it is: [accepted]"
    assert context_of("context", None) == context_of("context", {}) == context_of("context", "  ") == ""


LOOP: list[Any] = []
LOOP.append(LOOP)
DEEP: Any = json.loads("[" * 400 + "]" * 400)
BAD: dict[str, tuple[Any, str]] = {
    "number": (5, "context is 5. Give a text"),
    "flag": (True, "context is true"),
    "object": (object(), "of type object"),
    "bytes": ({"a": b"x"}, "is no JSON: .*bytes"),
    "nan": ({"a": float("nan")}, "is no JSON"),
    "loop": (LOOP, "is no JSON: Circular"),
    "deep": ([DEEP], "nested more than 16 deep"),
    "surrogate": ("\ud800", "half a surrogate pair"),
    "long text": ("x" * (LONGEST + 1), r"has 262,145 bytes, more than 262,144. Give what"),
    "long object": ({"a": "é" * LONGEST}, "bytes, more than"),
    "long when indented": ({str(number): [[[[[[[1]]]]]]] for number in range(20000)}, "bytes, more than"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_context_is_refused_with_the_field(kind: str) -> None:
    value, words = BAD[kind]
    with pytest.raises(BadDataError, match=words) as caught:
        context_of("context", value)
    assert caught.value.remedy
    with pytest.raises(BadDataError, match=words.replace("context", r"tools\[1\]")):
        tool_messages_of("tools", ["fine", value])


def test_messages_of_tools_are_bounded_together() -> None:
    assert tool_messages_of("tools", ["a", {"b": 1}, "", {}]) == ("a", "b: 1")
    with pytest.raises(BadDataError, match="tools has 262,201 bytes"):
        tool_messages_of("tools", ["x" * (LONGEST // 2), "y" * (LONGEST // 2 + 56)])
    for value in ("text", {"a": 1}, 5):
        with pytest.raises(BadDataError, match="Give a list"):
            tool_messages_of("tools", value)


def chat(*messages: tuple[str, Any], **fields: Any) -> dict[str, Any]:
    return {"id": "c", "messages": [{"role": role, "content": content} for role, content in messages], **fields}


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_in_a_log_it_is_a_field_or_what_the_system_says_first(tmp_path: Path) -> None:
    talk = [("user", "tea?"), ("assistant", "yes")]
    lines = [chat(*talk), chat(*talk, context=SHOP), chat(("system", "Sell."), *talk, context=SHOP)]
    lines += [chat(("system", "a"), ("developer", {"b": 1}), *talk), chat(*talk, context=None)]
    for number, line in enumerate(lines):
        line["id"] = number
    texts = [each.context for each in read_log(write(tmp_path / "a.jsonl", *lines))]
    assert texts == ["", TEXT, f"Sell.\n\n{TEXT}", "a\n\nb: 1", ""]


def test_in_parquet_it_is_a_text_or_a_struct_whose_gaps_are_no_nulls(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "tea?"}, {"role": "assistant", "content": "yes"}]
    for name, values in {
        "struct": [{"a": 1, "b": None}, {"a": 2, "b": "x"}, None],
        "text": ["a: 1", "b", None],
    }.items():
        table = pa.table({"id": ["1", "2", "3"], "messages": [messages] * 3, "context": values})
        pq.write_table(table, tmp_path / "a.parquet")
        texts = [each.context for each in read_log(tmp_path / "a.parquet")]
        assert texts == {"struct": ["a: 1", "a: 2\nb: x", ""], "text": ["a: 1", "b", ""]}[name]


TOOL, CALL = ("tool", {"stock": 3}), ("assistant", None)
PLACES: dict[str, tuple[list[tuple[str, Any]], list[tuple[str, ...]]]] = {
    "before the first message": ([TOOL, ("user", "a"), ("assistant", "b")], [("stock: 3",)]),
    "before the reply": ([("user", "a"), TOOL, ("tool", "t"), ("assistant", "b")], [("stock: 3", "t")]),
    "in the reply": ([("user", "a"), ("assistant", "wait"), TOOL, ("assistant", "b")], [("stock: 3",)]),
    "in the question": ([("user", "a"), TOOL, ("user", "b"), ("assistant", "b")], [("stock: 3",)]),
    "behind the reply": (
        [("user", "a"), ("assistant", "b"), TOOL, ("user", "c"), ("assistant", "d")],
        [(), ("stock: 3",)],
    ),
    "behind a greeting": ([("assistant", "hi"), TOOL, ("user", "a"), ("assistant", "b")], [("stock: 3",)]),
    "at the end": ([("user", "a"), ("assistant", "b"), TOOL], [()]),
    "empty": ([("user", "a"), ("tool", ""), ("tool", None), ("assistant", "b")], [()]),
}


@pytest.mark.parametrize("place", PLACES)
def test_what_tools_returned_belongs_to_the_next_suggestion(place: str, tmp_path: Path) -> None:
    messages, expected = PLACES[place]
    reader = LogReader(write(tmp_path / "a.jsonl", chat(*messages)))
    [conversation] = reader
    assert [turn.tool_messages for turn in conversation.turns] == expected
    assert reader.omissions.get("tool messages after the last reply", 0) == (place == "at the end")


def test_a_state_ends_with_the_customer_or_with_a_tool(tmp_path: Path) -> None:
    messages = dict(
        enumerate(chat(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), TOOL)["messages"])
    )
    history, message, tools, context = read_state(messages)
    assert (len(history), message, tools, context) == (1, "c", ("stock: 3",), "s")
    for rest in ([("user", "a"), ("assistant", "b"), TOOL], [TOOL], [("system", "s")]):
        with pytest.raises(BadDataError, match="last message is not the customer's"):
            read_state(dict(enumerate(chat(*rest)["messages"])))


def test_all_that_is_wrong_with_contexts_of_a_log_comes_at_once_with_lines(tmp_path: Path) -> None:
    talk = [("user", "tea?"), ("assistant", "yes")]
    lines = [chat(*talk, context=5), chat(("system", 7), *talk), chat(*talk, ("tool", True)), chat(*talk, contexts="a")]
    lines += [chat(("tool", "x" * LONGEST), ("tool", "y"), *talk), chat(("system", "x" * LONGEST), *talk, context="y")]
    with pytest.raises(BadDataError) as caught:
        read_log(write(tmp_path / "a.jsonl", *lines))
    for words in (
        "6 problems",
        "line 1: context is 5",
        "line 2: messages[0].content is 7",
        "line 3: messages[2].content is true",
        "line 4: unknown field contexts. Rename it to context",
        "line 5: what tools returned before one reply has 262,146 bytes",
    ):
        assert words in str(caught.value)


def test_turns_keep_them_and_a_long_one_is_written_once(tmp_path: Path) -> None:
    turns = [Turn(f"m{i}", "s", "accepted", "s", tool_messages=("t",) * (i % 3)) for i in range(100)]
    conversations = [Conversation("a", turns, context="x" * LONGEST), Conversation("b", turns[:1])]
    write_turns(tmp_path / "a.parquet", conversations)
    assert read_turns(tmp_path / "a.parquet") == conversations
    column = pq.read_table(tmp_path / "a.parquet")["context"].to_pylist()
    assert [bool(text) for text in column] == [True] + [False] * 100
    assert kinds_in(conversations) == {CONTEXT, TOOLS}
    assert kinds_in(conversations[1:]) == frozenset()


def test_a_file_of_version_1_has_neither(tmp_path: Path) -> None:
    write_turns(tmp_path / "a.parquet", [Conversation("a", [Turn("m", "s", "accepted", "s")])])
    table = pq.read_table(tmp_path / "a.parquet").drop(["writer", "customer_id", "context", "tool_messages"])
    pq.write_table(table.replace_schema_metadata({VERSION_KEY: b"1"}), tmp_path / "b.parquet")
    [conversation] = read_turns(tmp_path / "b.parquet")
    assert (conversation.context, conversation.turns[0].tool_messages) == ("", ())


def test_a_context_that_changes_within_a_conversation_is_refused(tmp_path: Path) -> None:
    turns = [Turn("m", "s", "accepted", "s"), Turn("n", "s", "accepted", "s")]
    write_turns(tmp_path / "a.parquet", [Conversation("a", turns, context="x")])
    table = pq.read_table(tmp_path / "a.parquet")
    place = SCHEMA.names.index("context")
    for values, good in ((["x", "x"], True), (["x", None], True), (["x", "y"], False), (["", "y"], False)):
        other = table.set_column(place, SCHEMA.field(place), pa.chunked_array([pa.array(values)]))
        pq.write_table(other, tmp_path / "b.parquet")
        if good:
            assert read_turns(tmp_path / "b.parquet")[0].context == "x"
        else:
            with pytest.raises(BadDataError, match="row 1, column 'context' changes"):
                read_turns(tmp_path / "b.parquet")


@pytest.mark.parametrize(
    ("column", "value"), [("context", "x" * (LONGEST + 1)), ("tool_messages", ["x" * LONGEST] * 2)]
)
def test_turns_with_too_much_are_refused_with_row_and_column(column: str, value: Any, tmp_path: Path) -> None:
    row: dict[str, Any] = {"conversation_id": "a", "turn": 0, "customer_message": "m", "suggestion": "s"}
    row |= {"reaction": "accepted", "sent_message": "s", "final_outcome": True, column: value}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    with pytest.raises(BadDataError, match=rf"row 0, column '{column}' .* has [\d,]+ bytes, more than"):
        read_log(tmp_path / "a.parquet")
