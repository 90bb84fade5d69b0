"""Logs as strangers write them: each says what it is and what to do, once."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.logs import read_log

LINE = {
    "conversation_id": "c1",
    "messages": [{"role": "user", "content": "tea?"}, {"role": "assistant", "content": "yes, tea"}],
    "outcome": True,
}
TEXT = json.dumps(LINE)
OTHER = TEXT.replace("c1", "c2")


def renamed(**names: str) -> str:
    messages = [{names.get(name, name): text for name, text in each.items()} for each in LINE["messages"]]  # type: ignore[attr-defined]
    return json.dumps(LINE | {"messages": messages})


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("a.jsonl", f"[\n{TEXT},\n{OTHER}\n]", r"line 1 begins with \[.*name that ends in \.json"),
        ("a.jsonl", f"[{TEXT}, {OTHER}]\n", r"line 1 begins with \[.*ends in \.json"),
        ("a.jsonl", f"\ufeff[{TEXT}]\n", r"line 1 begins with \["),
        ("a.jsonl", json.dumps(LINE, indent=2), r"line 1 begins an object that does not end on its line.*jq"),
        ("a.jsonl", f"{TEXT}\r{OTHER}\r", r"line 1 has lines that end in a carriage return alone.*line feeds"),
        ("a.jsonl", "conversation_id,role,content\nc1,user,tea?\n", r"line 1 looks like a table.*one JSON object"),
        ("a.jsonl", '"conversation_id";"role";"content"\n', "looks like a table"),
        ("a.jsonl", "id\trole\ttext\n", "looks like a table"),
        ("a.jsonl", "<!doctype html><html>404</html>\n", "line 1 looks like a page of HTML"),
        ("a.jsonl", gzip.compress(TEXT.encode()), r"line 1 is packed with gzip.*\.jsonl\.gz"),
        ("a.jsonl", b"PK\x03\x04....", "is a zip archive or an office table"),
        ("a.jsonl", b"PAR1....", r"is parquet.*ends in \.parquet"),
        ("a.jsonl.gz", TEXT, r"a.jsonl.gz is no gzip archive.*without \.gz"),
        ("a.json.gz", f"[{TEXT}]", r"a.json.gz is no gzip archive"),
        ("a.ndjson", f"{TEXT},\n{OTHER},\n", r"line 1 is not JSON: it ends with a comma \(2 times; also line 2\)"),
        ("a.jsonl", f"{TEXT}{OTHER}\n", "line 1 is not JSON: it holds several objects.*line with each"),
        ("a.jsonl", f"{TEXT}, {OTHER}\n", "line 1 is not JSON: it holds several objects"),
        ("a.jsonl", f"{LINE}\n", "line 1 is not JSON: it has single quotes.*json.dumps"),
        ("a.jsonl", f"{TEXT}\n{OTHER[:40]}\n", "line 2 is not JSON: it ends in the midst of an object"),
        ("a.jsonl", f"{TEXT}\n{OTHER[:-1]}", "line 2 is not JSON: it ends in the midst of an object"),
        ("a.jsonl", TEXT.replace("tea?", "t\0ea"), "line 1 is not JSON at character .*control character"),
        ("a.jsonl", json.dumps({"role": "user", "content": "tea?"}), "line 1 is a message by itself.*its messages in"),
        ("a.jsonl", json.dumps({"from": "human", "value": "tea?"}), "line 1 is a message by itself"),
        ("a.jsonl", json.dumps({"prompt": "a", "completion": "b"}), r"messages is missing \(it has prompt, completion"),
        ("a.jsonl", TEXT.replace("messages", "turns"), r"messages is missing \(it has conversation_id, turns, outcome"),
        ("a.jsonl", json.dumps(LINE | {"messages": ["tea?", "yes"]}), r"messages\[0\] is a text and no message \(2"),
        ("a.jsonl", renamed(role="sender"), r"messages\[0\].role is missing \(it has sender, content\)"),
        ("a.jsonl", renamed(content="text"), r"messages\[0\].content is missing \(it has role, text\)"),
    ],
)
def test_what_is_no_log_says_so_once(name: str, body: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(body if isinstance(body, bytes) else body.encode())
    with pytest.raises(BadDataError, match=words) as caught:
        read_log(tmp_path / name)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("body", [f"\ufeff{TEXT}\n", f"{TEXT}\r\n{OTHER}\r\n", f"\n\n{TEXT}", f"  {TEXT}  \n"])
def test_marks_ends_and_blanks_do_no_harm(body: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(body.encode())
    assert read_log(tmp_path / "a.jsonl")[0].outcome
