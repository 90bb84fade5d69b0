"""Turn Parquet: what goes in comes out, in tools of others too, and what is wrong is named."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.problems import Problems
from ippo_trainer.data.schema import SCHEMA, VERSION_KEY, Conversation, Turn
from ippo_trainer.data.turns import iter_turns, read_turns, write_turns

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
MESSAGE = TEXT.filter(str.strip)


@st.composite
def turns(draw: st.DrawFn) -> Turn:
    suggestion = draw(st.none() | TEXT)
    tokens = draw(st.none() | st.lists(st.integers(0, 2**31 - 1), max_size=4))
    logprobs = None if tokens is None else [float(np.float32(-x / 7)) for x in range(len(tokens))]
    return Turn(
        customer_message=draw(MESSAGE),
        suggestion=suggestion,
        reaction=draw(st.sampled_from(["accepted", "edited", "rejected"])) if suggestion is not None else "rejected",
        sent_message=draw(TEXT),
        displayed=draw(st.booleans()),
        policy_digest=draw(TEXT),
        behaviour=draw(st.sampled_from(["policy", "explore", "log"])),
        token_ids=tokens,
        sampler_logprobs=logprobs,
        started_at=draw(st.integers(0, 2**31)) / 4,
        ended_at=draw(st.integers(0, 2**31)) / 4,
    )


@st.composite
def logs(draw: st.DrawFn) -> list[Conversation]:
    conversations = []
    for number in range(draw(st.integers(1, 4))):
        censored = draw(st.booleans())
        outcome = False if censored else draw(st.booleans())
        conversations.append(
            Conversation(f"c{number}", draw(st.lists(turns(), min_size=1, max_size=3)), outcome, censored)
        )
    return conversations


def sample(count: int = 3) -> list[Conversation]:
    first = Turn("hello", "how are you", "accepted", "how are you", token_ids=[1, 2], sampler_logprobs=[-0.5, -0.25])
    second = Turn("fine", None, "rejected", "glad to hear")
    return [Conversation(f"c{i}", [replace(first), replace(second)], i % 2 == 0) for i in range(count)]


def rewrite(path: Path, change: Any) -> Path:
    """The file of `sample()` after `change` of its rows or table."""
    write_turns(path, sample())
    table = pq.read_table(path)
    pq.write_table(change(table), path)
    return path


def with_cell(column: str, row: int, value: Any, type_: Any = None) -> Any:
    def change(table: pa.Table) -> pa.Table:
        values = table.column(column).to_pylist()
        values[row] = value
        index = table.schema.get_field_index(column)
        field = pa.field(column, type_ or table.schema.field(column).type)
        return table.set_column(index, field, pa.array(values, field.type))

    return change


@settings(max_examples=40)
@given(conversations=logs())
def test_what_is_written_is_read(conversations: list[Conversation], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("turns") / "a.parquet"
    assert write_turns(path, conversations) == sum(len(c.turns) for c in conversations)
    assert read_turns(path) == conversations


def test_equal_content_gives_equal_bytes_across_row_groups(tmp_path: Path) -> None:
    conversations = sample(9000)
    for name in ("a", "b"):
        write_turns(tmp_path / name, conversations)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert pq.ParquetFile(tmp_path / "a").num_row_groups == 2
    assert read_turns(tmp_path / "a") == conversations
    assert not list(tmp_path.glob("*.partial"))


def test_several_files_are_one_log_and_a_conversation_is_in_one_of_them(tmp_path: Path) -> None:
    everything = sample(4)
    write_turns(tmp_path / "a.parquet", everything[:2])
    write_turns(tmp_path / "b.parquet", everything[2:])
    assert read_turns([tmp_path / "a.parquet", tmp_path / "b.parquet"]) == everything
    with pytest.raises(BadDataError, match=r"a.parquet, row 0, column 'conversation_id'.*'c0'.*second time"):
        read_turns([tmp_path / "a.parquet", tmp_path / "a.parquet"])


def test_a_conversation_that_is_known_to_have_gone_on_stays_so(tmp_path: Path) -> None:
    everything = sample(3)
    everything[1] = replace(everything[1], outcome=False, censored=True, went_on=True)
    write_turns(tmp_path / "a.parquet", everything)
    assert read_turns(tmp_path / "a.parquet") == everything
    with pytest.raises(BadDataError, match=r"column 'went_on'.*is true although the end is known"):
        write_turns(tmp_path / "b.parquet", [replace(everything[1], censored=False)])


def test_groups_are_kept_where_there_are_some(tmp_path: Path) -> None:
    everything = sample(4)
    write_turns(tmp_path / "without.parquet", everything)
    everything[1].group = "web"
    write_turns(tmp_path / "with.parquet", everything)
    assert read_turns(tmp_path / "with.parquet") == everything
    assert {each.group for each in read_turns(tmp_path / "without.parquet")} == {""}
    table = pq.read_table(tmp_path / "with.parquet")
    place = table.schema.names.index("group")
    changed = table.set_column(place, table.schema.field(place), pa.array(["web", *table["group"].to_pylist()[1:]]))
    pq.write_table(changed, tmp_path / "changed.parquet")
    with pytest.raises(BadDataError, match=r"column 'group' changes within conversation 'c0'.*repeat it"):
        read_turns(tmp_path / "changed.parquet")


def test_pandas_and_duckdb_read_it(tmp_path: Path) -> None:
    path = tmp_path / "turns.parquet"
    conversations = sample()
    conversations[1].turns[0].started_at = 86400.5
    write_turns(path, conversations)
    frame = pd.read_parquet(path)
    assert list(frame.columns) == SCHEMA.names
    assert frame["suggestion"].isna().tolist() == [False, True] * 3
    assert frame["started_at"][2] == pd.Timestamp("1970-01-02T00:00:00.5Z")
    assert frame["sampler_logprobs"][0].tolist() == [-0.5, -0.25]
    query = f"""select conversation_id, count(*), count(suggestion), bool_or(final_outcome),
                epoch(max(started_at)), list_sum(first(sampler_logprobs order by turn))
                from '{path}' group by 1 order by 1"""
    assert duckdb.sql(query).fetchall() == [
        ("c0", 2, 1, True, 0.0, -0.75),
        ("c1", 2, 1, False, 86400.5, -0.75),
        ("c2", 2, 1, True, 0.0, -0.75),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_cell("turn", 1, 7), r"row 1, column 'turn' is 7 where 1 was expected in conversation 'c0'"),
        (with_cell("turn", 2, 1), r"row 2, column 'turn' is 1 where 0"),
        (
            with_cell("customer_message", 3, " \n"),
            r"row 3, column 'customer_message' \(conversation 'c1', turn 1\) is empty",
        ),
        (with_cell("customer_message", 3, None), r"row 3, column 'customer_message' is null"),
        (with_cell("reaction", 4, "liked"), r"row 4, column 'reaction' .*is 'liked'.*accepted, edited, rejected"),
        (with_cell("reaction", 1, "accepted"), r"row 1, column 'reaction'.*without a suggestion"),
        (with_cell("behaviour", 0, "x"), r"row 0, column 'behaviour'"),
        (with_cell("sampler_logprobs", 2, [math.nan, 0.0]), r"row 2, column 'sampler_logprobs'.*NaN"),
        (with_cell("sampler_logprobs", 2, [0.0]), r"row 2, column 'sampler_logprobs'.*per token"),
        (with_cell("final_outcome", 1, False), r"row 1, column 'final_outcome' changes within conversation 'c0'"),
        (with_cell("censored", 3, True), r"row 3, column 'censored' changes"),
        (with_cell("outcome", 0, True), r"row 1, column 'outcome'.*false after it was true"),
        (with_cell("outcome", 3, True), r"row 2, column 'final_outcome'.*false although"),
        (with_cell("turn", 0, math.nan, pa.float64()), r"row 0, column 'turn' is nan"),
        (lambda table: table.drop_columns("reaction"), r"no column 'reaction'"),
        (lambda table: table.replace_schema_metadata({VERSION_KEY: b"3"}), r"schema version 3, this release reads 2"),
        (lambda table: table.replace_schema_metadata({}), r"no schema version"),
        (lambda table: table.slice(0, 0), r"no conversations in bad.parquet"),
    ],
)
def test_errors_name_file_row_and_column(change: Any, message: str, tmp_path: Path) -> None:
    path = rewrite(tmp_path / "bad.parquet", change)
    with pytest.raises(BadDataError, match=message) as caught:
        read_turns(path)
    assert "bad.parquet" in caught.value.message
    assert caught.value.remedy


def test_a_file_that_is_absent_cut_off_or_something_else_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match=r"absent.parquet does not exist"):
        read_turns(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("conversation_id,turn\n")
    with pytest.raises(BadDataError, match=r"text.parquet is no readable Parquet"):
        read_turns(tmp_path / "text.parquet")
    write_turns(tmp_path / "cut.parquet", sample(500))
    body = (tmp_path / "cut.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(body[: len(body) // 2])
    with pytest.raises(BadDataError, match=r"cut.parquet"):
        read_turns(tmp_path / "cut.parquet")
    # A page's bytes overwritten in the middle: the footer still reads.
    (tmp_path / "bits.parquet").write_bytes(body[:50] + bytes(200) + body[250:])
    with pytest.raises(BadDataError, match=r"bits.parquet"):
        read_turns(tmp_path / "bits.parquet")


def test_a_bad_conversation_is_refused_before_anything_is_published(tmp_path: Path) -> None:
    conversations = sample()
    conversations[2].turns[1].customer_message = ""
    with pytest.raises(BadDataError, match=r"row 5, column 'customer_message'"):
        write_turns(tmp_path / "a.parquet", conversations)
    assert list(tmp_path.iterdir()) == []


def test_a_strangers_parquet_may_lack_version_and_columns_with_a_natural_default(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "conversation_id": ["a", "a", "b"],
            "turn": [0, 1, 0],
            "customer_message": ["hi", "more", "hey"],
            "suggestion": ["yes", None, "no"],
            "reaction": ["accepted", "rejected", "edited"],
            "sent_message": ["yes", "x", "nope"],
            "final_outcome": [True, True, False],
        }
    )
    frame.to_parquet(tmp_path / "log.parquet")
    problems = Problems("log.parquet")
    [first, second] = iter_turns(tmp_path / "log.parquet", problems)
    assert [turn.suggestion for turn in first.turns] == ["yes", None]
    assert (first.outcome, second.outcome, second.turns[0].behaviour) == (True, False, "log")
    with pytest.raises(BadDataError, match="no schema version"):
        read_turns(tmp_path / "log.parquet")
    frame["customer_message"] = [math.nan] * 3
    frame.to_parquet(tmp_path / "log.parquet")
    assert list(iter_turns(tmp_path / "log.parquet", problems)) == []
    [kind] = problems.kinds()
    assert (kind.count, kind.places, "column 'customer_message' is null" in kind.text) == (3, ["row 0"], True)
