"""What a gateway left in its journal goes into the store without a gateway."""

import gzip
import json
import threading
from pathlib import Path

import pytest
from ippo_trainer.contract.errors import TryAgainError
from ippo_trainer.gateway import put
from ippo_trainer.live.journal import SUFFIX, Journal
from ippo_trainer.store.base import Store
from ippo_trainer.store.local import LocalStore

WORDS = "the store does not answer"


def left(folder: Path, count: int) -> None:
    """A journal of a gateway that was killed: nothing was sealed, nobody let go of it but the kernel."""
    journal = Journal(folder)
    for number in range(count):
        journal.append({"event_id": f"e{number:03d}"}).result(60)
    journal.release()


def ids_in(store: Path) -> list[str]:
    return sorted(json.loads(line)["event_id"] for path in store.rglob("*.gz") for line in gzip.open(path))


def command(tmp_path: Path) -> list[str]:
    return ["--journal", str(tmp_path / "journal"), "--log", f"file://{tmp_path}/store"]


def test_all_that_is_left_is_put_and_a_second_time_there_is_nothing_to_do(tmp_path: Path) -> None:
    left(tmp_path / "journal", 7)
    for _ in range(2):
        assert put.main(command(tmp_path)) == 0
        assert ids_in(tmp_path / "store") == [f"e{number:03d}" for number in range(7)]
        assert not list((tmp_path / "journal").glob(f"*{SUFFIX}"))


def test_it_waits_for_a_store_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left(tmp_path / "journal", 7)
    back, asked = threading.Event(), threading.Event()
    put_before = LocalStore.put

    def away(self: Store, *arguments: object, **options: object) -> None:
        asked.set()
        if not back.is_set():
            raise TryAgainError(WORDS, "Wait.")
        put_before(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalStore, "put", away)
    ended: list[int] = []
    thread = threading.Thread(target=lambda: ended.append(put.main(command(tmp_path))))
    thread.start()
    assert asked.wait(60)
    assert not ended
    back.set()
    thread.join(60)
    assert ended == [0]
    assert len(ids_in(tmp_path / "store")) == 7


def test_a_journal_that_a_gateway_has_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(tmp_path / "journal")
    assert put.main(command(tmp_path)) == 64
    assert "another process writes the journal" in caplog.text
    journal.close()
    journal.release()


def test_a_wrong_argument_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        put.main(["--journal", "x", "--log", "ftp://x"])
    assert error.value.code == 64
    assert "--log" in capsys.readouterr().err
