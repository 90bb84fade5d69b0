"""Outcomes in a file of their own: what is joined, what an observation window censors, and what is refused."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.fields import window_seconds
from ippo_trainer.data import json_lines
from ippo_trainer.data.logs import LogReader
from ippo_trainer.data.outcomes import BEFORE, Outcomes, joined
from ippo_trainer.data.schema import Conversation, Turn

DAY = 86400.0


def conversation(name: str, ended_at: float = 0.0, outcome: bool | None = None) -> Conversation:
    turns = [
        Turn("hi", "yes", "accepted", "yes", started_at=max(0.0, ended_at - 60 * (3 - index)), ended_at=ended_at)
        for index in range(3)
    ]
    return Conversation(name, turns, bool(outcome), censored=outcome is None)


def csv(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_list_of_purchases(tmp_path: Path) -> None:
    """The same in three formats: who is named bought, and nobody else did."""
    rows = [{"conversation_id": "a"}, {"conversation_id": "b"}, {"conversation_id": "gone"}]
    (tmp_path / "o.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "o.parquet")
    csv(tmp_path / "o.csv", "conversation_id", "a", "b", "gone")
    for name in ("o.jsonl", "o.parquet", "o.csv"):
        outcomes = Outcomes(tmp_path / name)
        joined = [outcomes.join(conversation(each)) for each in "abc"]
        assert [(each.outcome, each.censored) for each in joined] == [(True, False), (True, False), (False, False)]
        assert outcomes.counts == {"with the outcome": 2, "without the outcome": 1}
        outcomes.check()
        [notice] = outcomes.notices.kinds()
        assert f"1 of 3 ids in {name} are of no conversation in the log" in notice.text


@pytest.mark.parametrize(
    ("ended", "name", "end"),
    [
        (0.5, "bought in time", (True, False)),
        (0.5, "bought too late", (False, False)),
        (0.5, "said no", (False, False)),
        (2.9, "over", (False, False)),
        (3.1, "still open", (False, True)),
        (9.5, "said no", (False, False)),
    ],
)
def test_a_window(ended: float, name: str, end: tuple[bool, bool], tmp_path: Path) -> None:
    """The file ends on day 10: a window of seven days is over for conversations that ended by day 3."""
    rows = [
        "conversation_id,outcome,time",
        f"bought in time,true,{7 * DAY}",
        f"bought too late,1,{9 * DAY}",
        "said no,false,",
        "somebody else,TRUE,1970-01-11T00:00:00Z",
    ]
    outcomes = Outcomes(csv(tmp_path / "o.csv", *rows), window_seconds("7d"))
    joined = outcomes.join(conversation(name, ended * DAY))
    assert (joined.outcome, joined.censored) == end


def test_turns_after_the_outcome_are_past_the_end(tmp_path: Path) -> None:
    path = csv(tmp_path / "o.csv", "conversation_id,time", f"a,{DAY - 100}")
    joined = Outcomes(path).join(conversation("a", DAY))  # its turns begin 180, 120 and 60 seconds before the end
    assert [turn.outcome for turn in joined.turns] == [False, False, True]


def test_windows_in_units() -> None:
    assert [window_seconds(text) for text in ("30m", "36h", "14d")] == [1800, 36 * 3600, 14 * DAY]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["a,b", "1,2"], "no column conversation_id"),
        (["conversation_id"], "no outcomes"),
        (["conversation_id,outcome", "a,maybe"], r'row 2: outcome is "maybe".*true or false'),
        (["conversation_id,outcome", ",true"], r'row 2: conversation_id is ""'),
        (["conversation_id,time", "a,soon"], r'row 2: time is "soon".*ISO 8601'),
        (["conversation_id,outcomes", "a,true"], r'unknown field "outcomes".*Rename it to outcome'),
        (
            ["conversation_id,outcome", "a,true", "a,false", "b,1", "b,0"],
            r"2 problems.*rows 2 and 3: outcome of conversation 'a' is true, then false \(2 times; also rows 4 and 5\)",
        ),
    ],
)
def test_bad_files(rows: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match=words) as caught:
        Outcomes(csv(tmp_path / "o.csv", *rows))
    assert caught.value.remedy


def test_other_bad_files(tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match="no file of outcomes"):
        Outcomes(tmp_path / "absent.csv")
    (tmp_path / "o.txt").write_text("x")
    with pytest.raises(BadDataError, match="that can be read"):
        Outcomes(tmp_path / "o.txt")
    (tmp_path / "o.jsonl").write_text("[]\n{")
    with pytest.raises(BadDataError, match=r"2 problems.*row 1 is no object.*row 2 is not JSON"):
        Outcomes(tmp_path / "o.jsonl")
    (tmp_path / "o.parquet").write_bytes(b"PAR1")
    with pytest.raises(BadDataError, match="cannot be read to its end"):
        Outcomes(tmp_path / "o.parquet")
    with pytest.raises(BadDataError, match=r"no times.*window"):
        Outcomes(csv(tmp_path / "o.csv", "conversation_id", "a"), 1.0)


def test_a_join_that_matches_nothing(tmp_path: Path) -> None:
    outcomes = Outcomes(csv(tmp_path / "o.csv", "conversation_id", "order-1", "order-2"))
    outcomes.join(conversation("chat-1"))
    with pytest.raises(BadDataError, match=r"the log has 'chat-1', the file 'order-1', 'order-2'.*same ids"):
        outcomes.check()


def test_a_log_that_says_the_opposite_and_one_without_times(tmp_path: Path) -> None:
    path = csv(tmp_path / "o.csv", "conversation_id,time", "a,5")
    with pytest.raises(BadDataError, match=r"outcome of conversation 'a' is false, and o.csv, row 2, says true"):
        Outcomes(path).join(conversation("a", outcome=False))
    with pytest.raises(BadDataError, match=r"conversation 'a' has no time.*Give its messages"):
        Outcomes(path, 1.0).join(conversation("a"))
    agreed: Any = Outcomes(path).join(conversation("a", outcome=True))
    assert agreed.outcome


def test_an_outcome_of_the_log_that_the_file_does_not_name(tmp_path: Path) -> None:
    """Not a failure: one of the two is wrong."""
    outcomes = Outcomes(csv(tmp_path / "o.csv", "conversation_id", "b"))
    with pytest.raises(BadDataError, match=r"outcome of conversation 'a' is true, and o.csv does not name it"):
        outcomes.join(conversation("a", outcome=True))
    assert not outcomes.join(conversation("a", outcome=False)).outcome


def written(path: Path, names: list[str], cells: list[Any]) -> Path:
    if path.suffix == ".csv":
        return csv(path, ",".join(names), ",".join(map(str, cells)))
    pq.write_table(pa.Table.from_arrays([pa.array([cell]) for cell in cells], names=names), path)
    return path


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["conversation_id", "Outcome"], r'unknown field "Outcome".*Rename it to outcome'),
        (["conversation_id", "out_come", "time"], r"Rename it to outcome"),
        (["conversation_id", "outcome", "outcome"], r'column "outcome" twice'),
        (["conversation_id", "conversation_id"], r'column "conversation_id" twice'),
        (["Conversation ID", "outcome"], r'no column conversation_id, but "Conversation ID", "outcome"'),
    ],
)
def test_columns_that_could_mean_something_else(ending: str, names: list[str], words: str, tmp_path: Path) -> None:
    """A false outcome under a misspelt heading was read as true where only known columns were looked at."""
    with pytest.raises(BadDataError, match=words):
        Outcomes(written(tmp_path / f"o.{ending}", names, ["a", "false", "5"][: len(names)]))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1 << 50], pa.timestamp("s")),
        pa.array([1 << 62], pa.timestamp("us")),
        pa.array([1 << 30], pa.date32()),
        pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]),
    ],
)
def test_cells_that_python_cannot_hold(column: pa.Array, tmp_path: Path) -> None:
    pq.write_table(pa.table({"conversation_id": ["a"], "time": column}), tmp_path / "o.parquet")
    with pytest.raises(BadDataError, match=r"o.parquet, row 1 cannot be read"):
        Outcomes(tmp_path / "o.parquet")


@pytest.mark.parametrize("ending", ["csv.gz", "jsonl.gz"])
def test_every_byte_of_an_archive_may_be_damaged(ending: str, tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(60)]
    lines = [json.dumps({"conversation_id": name}) for name in names]
    rows = ["conversation_id", *names] if "csv" in ending else lines
    whole = gzip.compress("\n".join(rows).encode(), mtime=0)
    path, refused = tmp_path / f"o.{ending}", 0
    for index in range(len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 0xFF]) + whole[index + 1 :])
        try:
            outcomes = Outcomes(path)
        except BadDataError:
            refused += 1
            continue
        # A byte of the header that says nothing of the content.
        assert all(outcomes.join(conversation(name)).outcome for name in names)
    assert refused > len(whole) / 2


def test_every_bad_line_is_named(tmp_path: Path) -> None:
    lines = [
        '{"conversation_id": "a"}',
        "{",
        "",
        '{"conversation_id": NaN}',
        '{"time": 1, "time": 2}',
        '{"outcome": 3}',
    ]
    (tmp_path / "o.jsonl").write_text("\n".join(lines))
    with pytest.raises(BadDataError) as caught:
        Outcomes(tmp_path / "o.jsonl")
    for words in ("4 problems", "row 2 is not JSON", "row 4 holds NaN", 'row 5 has the field "time" twice', "row 6"):
        assert words in caught.value.message


def test_a_line_without_an_end_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines.lines, "__defaults__", (1 << 10,))
    for name in ("o.jsonl", "o.csv"):
        (tmp_path / name).write_text("x" * 5000)
        with pytest.raises(BadDataError, match="longer than"):
            Outcomes(tmp_path / name)


@pytest.mark.parametrize("began", [-1.0, 0.0, 1.0])
def test_what_began_after_its_outcome_cannot_have_led_to_it(began: float, tmp_path: Path) -> None:
    times = [{"time": 1000 + began}, {"time": 1000 + began + 60}]
    said = [{"role": "user", "content": "hi"} | times[0], {"role": "assistant", "content": "yes"} | times[1]]
    (tmp_path / "log.jsonl").write_text(json.dumps({"conversation_id": "a", "messages": said}))
    reader = LogReader(tmp_path / "log.jsonl")
    outcomes = Outcomes(csv(tmp_path / "o.csv", "conversation_id,time", "a,1000"))
    assert len(list(joined(reader, outcomes))) == (began <= 0)
    assert reader.omissions[BEFORE] == (began > 0)


def test_a_column_of_days_is_as_good_as_their_texts(tmp_path: Path) -> None:
    table = pa.table({"conversation_id": ["a"], "time": pa.array([1], pa.date32())})
    pq.write_table(table, tmp_path / "o.parquet")
    csv(tmp_path / "o.csv", "conversation_id,time", "a,1970-01-02")
    for name in ("o.parquet", "o.csv"):
        outcomes = Outcomes(tmp_path / name, DAY / 4)
        assert [outcomes.join(conversation("a", end * DAY)).outcome for end in (0.5, 0.9)] == [False, True]
