import threading
from pathlib import Path

import pytest

from tests.kit.lab import find_lab, unpack

SCRIPT = """#!/bin/sh
echo begin >>{log}
if [ $1 = fails ]; then echo 'no such pack' >&2; exit 1; fi
mkfifo {log}.$$; (sleep 0.2; echo >{log}.$$) & read nothing <{log}.$$
echo end >>{log}
echo /somewhere/$1
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script, log = tmp_path / "lab", tmp_path / "log"
    script.write_text(SCRIPT.format(log=log))
    script.chmod(0o755)
    monkeypatch.setenv("IPPO_LAB", str(script))
    return log


def test_one_process_at_a_time_unpacks(log: Path) -> None:
    threads = [threading.Thread(target=unpack, args=("bin",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.read_text().split() == ["begin", "end"] * 3


def test_the_folder_is_what_the_lab_prints(log: Path) -> None:
    assert unpack("bin") == Path("/somewhere/bin")


def test_a_lab_that_fails_is_an_error_and_not_a_missing_one(log: Path) -> None:
    with pytest.raises(RuntimeError, match="no such pack"):
        unpack("fails")


def test_without_a_lab_there_is_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IPPO_LAB", str(tmp_path / "none"))
    assert find_lab() is None
    assert unpack("bin") is None
