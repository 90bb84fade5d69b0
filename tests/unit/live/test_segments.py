"""From the journal into the store: once, whatever fails between."""

import gzip
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from ippo_trainer.contract.errors import TryAgainError
from ippo_trainer.contract.spec import StoreLocation
from ippo_trainer.data.server_log import is_segment
from ippo_trainer.live.journal import SUFFIX, Journal, JournalLimits
from ippo_trainer.live.segments import Uploader
from ippo_trainer.store import open_store

QUICK = JournalLimits(seconds=0.01, file_bytes=500)


def ids_in(directory: Path) -> list[str]:
    """Of the events in a store's folder."""
    paths = sorted(path for path in directory.rglob("*") if is_segment(path.name))
    return sorted(json.loads(line)["event_id"] for path in paths for line in gzip.open(path))


class FaultyStore:
    """A local store; puts of which `fails` says so fail, with `late` after they have stored what they were given."""

    def __init__(self, directory: Path, late: bool = False) -> None:
        self.store, self.late = open_store(StoreLocation(directory=str(directory))), late
        self.fails: Callable[[int], bool] = lambda number: False
        self.count = 0
        self.failed = threading.Event()

    def put(self, key: str, source: Path | bytes, *, if_absent: bool = False) -> None:
        self.count += 1
        failing = self.fails(self.count)
        if failing and not self.late:
            self.failed.set()
            raise TryAgainError("the store does not answer", "Wait.")
        self.store.put(key, source, if_absent=if_absent)
        if failing:
            self.failed.set()
            raise TryAgainError("the connection broke off", "Wait.")


def send(journal: Journal, numbers: range) -> None:
    for number in numbers:
        journal.append({"event_id": f"e{number:03d}", "text": "x" * 100}).result(60)


@pytest.mark.parametrize("late", [False, True])
def test_a_store_that_fails_gets_each_event_once(tmp_path, late):
    store = FaultyStore(tmp_path / "store", late)
    store.fails = lambda number: number % 3 != 0
    journal = Journal(tmp_path / "journal", QUICK)
    uploader = Uploader(journal, store, 0.001, 0.002)
    send(journal, range(40))
    assert uploader.close(60)
    assert ids_in(tmp_path / "store") == [f"e{number:03d}" for number in range(40)]
    assert not list((tmp_path / "journal").glob(f"*{SUFFIX}"))
    assert uploader.figures.failures > 0
    journal.release()


def test_what_is_left_at_the_end_is_for_the_next(tmp_path, caplog):
    store = FaultyStore(tmp_path / "store")
    store.fails = lambda number: True
    journal = Journal(tmp_path / "journal", QUICK)
    uploader = Uploader(journal, store, 0.001, 0.002)
    send(journal, range(10))
    assert store.failed.wait(60)
    assert not uploader.close(0.01)
    assert "stay in" in caplog.text
    journal.release()
    store.fails = lambda number: False
    journal = Journal(tmp_path / "journal", QUICK)
    uploader = Uploader(journal, store)
    send(journal, range(10, 12))
    assert uploader.close(60)
    assert ids_in(tmp_path / "store") == [f"e{number:03d}" for number in range(12)]
    journal.release()


def test_a_crash_between_the_put_and_the_end_of_the_file_does_no_harm(tmp_path, monkeypatch):
    """The file is there again, as if it had never been removed."""
    journal = Journal(tmp_path / "journal", QUICK)
    kept = {}
    remove = journal.remove
    monkeypatch.setattr(journal, "remove", lambda path: (kept.update({path: path.read_bytes()}), remove(path)))
    uploader = Uploader(journal, open_store(StoreLocation(directory=str(tmp_path / "store"))))
    send(journal, range(10))
    assert uploader.close(60)
    journal.release()
    assert kept
    for path, content in kept.items():
        path.write_bytes(content)
    journal = Journal(tmp_path / "journal", QUICK)
    assert Uploader(journal, open_store(StoreLocation(directory=str(tmp_path / "store")))).close(60)
    assert ids_in(tmp_path / "store") == [f"e{number:03d}" for number in range(10)]
    journal.release()


def test_a_file_that_cannot_be_read_holds_up_no_other(tmp_path):
    directory = tmp_path / "journal"
    (directory / f"20200101T000000Z-aa-000001.jsonl.gz{SUFFIX}").mkdir(parents=True)
    journal = Journal(directory, QUICK)
    uploader = Uploader(journal, open_store(StoreLocation(directory=str(tmp_path / "store"))), 0.001, 0.001)
    send(journal, range(3))
    assert not uploader.close(0.5)
    assert ids_in(tmp_path / "store") == ["e000", "e001", "e002"]
    journal.release()
