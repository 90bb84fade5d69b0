"""What pages quote is what the code says of such input."""

import json
import re
from pathlib import Path

import pytest
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.logs import read_log
from ippo_trainer.store import artifact
from ippo_trainer.store.local import LocalStore

from tests.kit.doc_outputs import pattern
from tests.kit.doc_pages import blocks


def quoted(page: str, section: str) -> list[str]:
    """The lines of the page's only quotation below a heading."""
    [block] = [block for block in blocks(page) if (block.language, block.section) == ("text", section)]
    return block.code.splitlines()


def log_of(folder: Path, name: str, *conversations: object) -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(conversation) + "\n" for conversation in conversations))
    return path


def conversation(name: str, outcome: object, *messages: dict[str, object]) -> dict[str, object]:
    return {"conversation_id": name, "outcome": outcome, "messages": list(messages)}


def fine(name: str) -> dict[str, object]:
    return conversation(name, True, said("user"), said("assistant"))


def said(role: str, **more: object) -> dict[str, object]:
    return {"role": role, "content": "hello", **more}


def test_what_is_left_out_of_a_log(tmp_path: Path) -> None:
    warnings: list[str] = []
    path = log_of(
        tmp_path,
        "log.jsonl",
        fine("a"),
        conversation("b", True, said("assistant"), said("user"), said("assistant"), said("user")),
        fine("c"),
        fine("d"),
        conversation("e", True, said("user"), said("system"), said("assistant")),
        fine("f"),
        conversation("g", False, said("user")),
    )
    read_log(path, warnings.append)
    assert warnings == quoted("docs/chat-logs.md", "From messages to turns")


def test_what_a_wrong_log_is_told(tmp_path: Path) -> None:
    lines = quoted("docs/chat-logs.md", "Errors")
    suggested = said("assistant", suggestion="bye")
    wrong = (
        [conversation("a", True, said("bot"))],
        [conversation("a", True, said("user"), suggested)],
        [conversation("a", "yes", said("user"), said("assistant"))],
        [fine("c1"), fine("c2"), fine("c3"), fine("c4"), fine("c2") | {"outcome": False}],
    )
    for line, log in zip(lines, wrong, strict=True):
        with pytest.raises(BadDataError, match=re.escape(line)):
            read_log(log_of(tmp_path, "bad.jsonl", *log))


def test_what_a_damaged_artifact_is_called(tmp_path: Path) -> None:
    [line] = quoted("docs/artifacts.md", "Verification")
    files = tmp_path / "files"
    files.mkdir()
    (files / "calibration.json").write_text("{}" + " " * 3362)
    store = LocalStore(tmp_path / "artifacts")
    ref = artifact.publish(store, "iterations/0001/q", files, "q")
    with (tmp_path / "artifacts" / ref.key / "calibration.json").open("a") as file:
        file.write(" ")
    with pytest.raises(BadDataError) as error:
        artifact.fetch(store, ref, tmp_path / "copy", "q")
    assert pattern(line.replace("runs/smoke/", "")).fullmatch(str(error.value))
