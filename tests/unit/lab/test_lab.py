import threading
from pathlib import Path

import pytest

from tests.kit.lab import find_lab, find_program, unpack

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


def test_a_program_is_the_one_named_or_the_one_on_the_path_or_the_labs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folders = {name: tmp_path / name for name in ("named", "path", "lab", "empty")}
    for folder in folders.values():
        folder.mkdir()
    for name in ("named", "path", "lab"):
        (folders[name] / "teapot").write_text("#!/bin/sh\n")
        (folders[name] / "teapot").chmod(0o755)
    lab = tmp_path / "script"
    lab.write_text(f"#!/bin/sh\necho {folders['lab']}\n")
    lab.chmod(0o755)
    monkeypatch.setenv("IPPO_LAB", str(lab))
    monkeypatch.setenv("TEAPOT", str(folders["named"] / "teapot"))
    monkeypatch.setenv("PATH", f"{folders['path']}:/bin:/usr/bin")
    assert find_program("teapot") == folders["named"] / "teapot"
    monkeypatch.delenv("TEAPOT")
    assert find_program("teapot") == folders["path"] / "teapot"
    monkeypatch.setenv("PATH", f"{folders['empty']}:/bin:/usr/bin")
    assert find_program("teapot") == folders["lab"] / "teapot"
    assert find_program("no-such-teapot") is None
