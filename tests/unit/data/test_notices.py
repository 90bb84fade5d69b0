"""What is worth a look in logs that can be read: one class, one voice, roles and times that are odd."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ippo_trainer.data import situations as module
from ippo_trainer.data.logs import LogReader
from ippo_trainer.data.outcomes import Outcomes
from ippo_trainer.data.schema import Turn
from ippo_trainer.data.situations import Situations, plain
from ippo_trainer.data.survey import survey

NOON = "2026-03-29T12:00:00Z"
NOW = 1_790_000_000.0


def chat(number: int, *messages: tuple[str, str], **fields: Any) -> dict[str, Any]:
    said = messages or (("user", f"hi {number}"), ("assistant", ("yes", "no", "tea")[number % 3]))
    line = {"conversation_id": number, "messages": [{"role": role, "content": text} for role, text in said]}
    return {**line, "outcome": number % 2 == 0, **fields}


def timed(number: int, *times: Any) -> dict[str, Any]:
    line = chat(number, ("user", "hi"), ("assistant", f"yes {number % 3}"))
    line["messages"] = [{**each, "time": time} for each, time in zip(line["messages"], times, strict=True)]
    return line


def without(line: dict[str, Any], name: str, **others: Any) -> dict[str, Any]:
    return {field: value for field, value in line.items() if field != name} | others


def surveyed(folder: Path, lines: list[dict[str, Any]]) -> dict[str, Any]:
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return survey(LogReader(path), now=NOW)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([chat(n, outcome=True) for n in range(20)], "every finished conversation has the outcome (20 of them)"),
        ([chat(n, outcome=False) for n in range(20)], "no finished conversation has the outcome (20 of them)"),
        ([chat(n, outcome=None) for n in range(20)], "no conversation has an outcome, so all are open. Write outcome"),
        (
            [without(chat(n), "outcome", label=True, shop="x") for n in range(20)],
            "all are open; nobody reads its fields label, shop",
        ),
        (
            [without(chat(n), "outcome", label=True) for n in range(20)],
            "or give a file of outcomes",
        ),
        ([chat(0), chat(1)], "2 conversations are finished, and Q needs 10"),
        ([chat(n, ("user", f"hi {n}"), ("assistant", "ok")) for n in range(20)], "all 20 suggestions are the same"),
        (
            [
                chat(n, ("assistant", "tea?"), ("user", "yes"), ("assistant", f"no {n}"), ("user", "ah"))
                for n in range(20)
            ],
            "the roles are swapped",
        ),
        ([timed(n, NOON, "2026-03-29T11:00:00Z") for n in range(20)], "its time goes backwards"),
        ([timed(n, NOON, "2999-01-01") for n in range(20)], "its time is in the future"),
        ([timed(n, NOON, "2026-03-29T14:00:00") for n in range(20)], "its times have no zone, and are taken as UTC"),
        ([timed(n, NOON, "2026-03-30") for n in range(20)], "its times have no zone, and are taken as UTC"),
        (
            [
                chat(12 * number + kind, ("user", f"{letter} tea"), ("assistant", f"yes, {letter}"))
                for number in range(5)
                for kind, letter in enumerate("abcdefghijkl")
            ],
            "in 100% of the turns whose situation comes again only one thing was ever suggested",
        ),
    ],
)
def test_a_log_that_can_be_read_and_is_odd_is_told_so(lines: list[dict[str, Any]], words: str, tmp_path: Path) -> None:
    figures = surveyed(tmp_path, lines)
    assert figures["problems"]["count"] == 0
    notices = [notice for notice in figures["notices"] if words in notice["notice"]]
    assert len(notices) == 1, figures["notices"]


def test_odd_times_are_counted_with_their_first_lines(tmp_path: Path) -> None:
    lines = [timed(n, NOON, NOON if n < 15 else "2026-03-28T12:00:00Z") for n in range(20)]
    [notice] = surveyed(tmp_path, lines)["notices"]
    assert (notice["count"], notice["places"]) == (5, ["line 16", "line 17", "line 18", "line 19"])


def rows_of(folder: Path, kind: Any) -> Path:
    times = pa.array([1_774_000_000_000_000] * 4).cast(kind)
    columns = {"conversation_id": list("abcd"), "turn": pa.array([0] * 4, pa.int32()), "final_outcome": [True] * 4}
    texts = {name: list("wxyz") for name in ("customer_message", "suggestion", "sent_message")}
    table = pa.table({**columns, **texts, "reaction": ["accepted"] * 4, "started_at": times})
    pq.write_table(table, folder / "rows.parquet")
    return folder / "rows.parquet"


def test_times_without_a_zone_are_told_whichever_file_has_them(tmp_path: Path) -> None:
    words = "no zone|without a zone"
    chats = tmp_path / "a.jsonl"
    chats.write_text("".join(json.dumps(chat(n) | {"outcome": None}) + "\n" for n in range(20)))
    orders = tmp_path / "orders.csv"
    for time, expected in (("2026-03-30 10:00:00", ["row 3", "row 4"]), ("2026-03-30T10:00Z", []), ("1774000000", [])):
        orders.write_text(f"conversation_id,time\n1,\n2,{time}\n3,{time}\n")
        told = survey(LogReader(chats), Outcomes(orders))["notices"]
        places = [each["places"] for each in told if re.search(words, each["notice"])]
        assert places == ([expected] if expected else [])
    for zone in (None, "UTC", "Asia/Tokyo"):
        told = survey(LogReader(rows_of(tmp_path, pa.timestamp("us", tz=zone))))["notices"]
        assert [each["count"] for each in told if re.search(words, each["notice"])] == ([1] if zone is None else [])


def test_an_ordinary_log_has_none(tmp_path: Path) -> None:
    lines = [timed(n, NOON, "2026-03-29T14:00:00+02:00") for n in range(20)]
    assert surveyed(tmp_path, lines)["notices"] == []


def test_times_that_cannot_be_read_are_left_out_with_count_and_first_line(tmp_path: Path) -> None:
    lines = [timed(n, NOON, NOON if n else "29.03.2026 14:30") for n in range(20)]
    figures = surveyed(tmp_path, [*reversed(lines)])
    [what] = figures["leftOut"]
    assert "neither ISO 8601 nor seconds" in what
    assert (figures["leftOut"][what], figures["leftOutFirst"][what]) == (1, "line 20")


def test_fields_that_nobody_reads_are_named(tmp_path: Path) -> None:
    lines = [chat(n, shop="x") for n in range(20)]
    lines[0]["messages"][0]["mood"] = "good"
    assert surveyed(tmp_path, lines)["unread"] == {"shop": 20, "messages[].mood": 1}


def turn(customer: str, suggestion: str | None) -> Turn:
    return Turn(customer, suggestion, "rejected" if suggestion is None else "accepted", suggestion or "bye")


def test_situations_are_alike_without_case_punctuation_and_numbers() -> None:
    assert plain("Order 4711, PLEASE!") == plain("order 3 please") == "order 0 please"
    assert plain("Grüße  Ａnna") == "grüsse anna"
    found = Situations()
    for number in range(4):
        found.add([turn(f"order {number}?", ("Yes.", "yes")[number % 2]), turn("thanks", "bye")])
        found.add([turn("tea", ("yes", "no")[number % 2])])
        found.add([turn("milk", "yes" if number else None)])
    found.add([turn("only once", "yes")])
    assert found.to_json() == {"different": 5, "again": 4, "turns": 16, "oneSuggestion": 2, "turnsOfOne": 8}


def test_of_many_situations_a_part_stands_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 200)
    found = Situations()
    for number in range(4000):
        for _ in range(3):
            found.add([turn("".join(chr(97 + int(digit)) for digit in str(number)), "ab"[number % 2])])
    figures = found.to_json()
    assert len(found._times) <= 200
    assert figures["different"] == pytest.approx(4000, rel=0.3)
    assert figures["turnsOfOne"] == figures["turns"] == 3 * figures["different"]
