"""The journal: what was answered for is on the disk, whatever fails."""

import errno
import json
import threading
from concurrent.futures import Future, wait
from pathlib import Path

import pytest
from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.live.journal import SUFFIX, EventConflictError, Journal, JournalFullError, JournalLimits
from ippo_trainer.live.journal_file import JournalFile, events_in, record

from tests.unit.live.disk_faults import FaultyDisk

LONG = JournalLimits(seconds=3600.0)


def event(number: int, size: int = 10) -> dict[str, str]:
    return {"event_id": f"e{number}", "text": "ü" * size}


def written(directory: Path) -> list[str]:
    """Ids of the events on the disk, as a reader finds them after a crash."""
    paths = sorted(directory.glob(f"*{SUFFIX}"))
    return [json.loads(each)["event_id"] for path in paths for each in events_in(path)]


def closed(journal: Journal) -> None:
    journal.close()
    journal.release()


def test_what_was_answered_for_is_on_the_disk(tmp_path):
    journal = Journal(tmp_path, LONG)
    for number in range(20):
        assert journal.append(event(number)).result(60)
        assert written(tmp_path) == [f"e{each}" for each in range(number + 1)]
    figures = journal.figures()
    assert (figures.written, figures.refused, figures.waiting_files) == (20, 0, 1)
    assert figures.waiting_bytes == sum(path.stat().st_size for path in tmp_path.glob(f"*{SUFFIX}"))
    closed(journal)


def test_one_sync_serves_all_that_wait(tmp_path):
    """Of many threads at once; each event is there once."""
    journal = Journal(tmp_path, JournalLimits(seconds=3600.0, file_bytes=1 << 30))
    futures: list[Future[bool]] = []

    def send(start: int) -> None:
        futures.extend(journal.append(event(number)) for number in range(start, start + 250))

    threads = [threading.Thread(target=send, args=(start,)) for start in range(0, 2000, 250)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait(futures, 60)
    assert all(future.result() for future in futures)
    assert sorted(written(tmp_path)) == sorted(f"e{number}" for number in range(2000))
    assert journal.figures().syncs < 1000
    closed(journal)


def test_files_are_sealed_by_size_and_by_age(tmp_path):
    journal = Journal(tmp_path, JournalLimits(seconds=3600.0, file_bytes=1000))
    for number in range(100):
        journal.append(event(number)).result(60)
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob(f"*{SUFFIX}"))]
    assert len(sizes) > 3
    assert all(1000 <= size < 1100 for size in sizes[:-1])
    closed(journal)
    young = Journal(tmp_path / "young", JournalLimits(seconds=0.01))
    young.append(event(0)).result(60)
    assert young.sealed(60) is not None
    closed(young)


def test_any_cut_leaves_whole_events(tmp_path):
    """At every byte."""
    path = tmp_path / "file"
    file = JournalFile(path)
    bodies = [json.dumps(event(number, number)).encode() for number in range(4)]
    file.append(b"".join(map(record, bodies)))
    file.close()
    content = path.read_bytes()
    ends = [content.index(each) + len(each) + 1 for each in bodies]
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        assert list(events_in(path)) == bodies[: sum(end <= size for end in ends)]


def test_damage_costs_the_damaged_record_alone_and_is_told(tmp_path, caplog):
    path = tmp_path / "file"
    bodies = [json.dumps(event(number)).encode() for number in range(3)]
    content = b"".join(map(record, bodies))
    for place in range(len(content)):
        caplog.clear()
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        left = list(events_in(path))
        assert set(left) < set(bodies)
        assert len(left) >= 1
        assert bool(caplog.records) == (place != len(content) - 1)


def test_a_new_journal_takes_over_what_is_there(tmp_path):
    first = Journal(tmp_path, LONG)
    first.append(event(1)).result(60)
    closed(first)
    with (path := next(tmp_path.glob(f"*{SUFFIX}"))).open("ab") as file:
        file.write(b"0000")  # what a crash cuts off
    second = Journal(tmp_path, LONG)
    assert second.sealed(0) == path
    second.append(event(2)).result(60)
    assert sorted(written(tmp_path)) == ["e1", "e2"]
    second.remove(path)
    assert second.sealed(0) is None
    second.close()
    assert second.sealed() is not None
    assert second.figures().waiting_files == 1
    second.release()


def test_a_directory_belongs_to_one_journal(tmp_path):
    first = Journal(tmp_path, LONG)
    with pytest.raises(BadSpecError, match="another process writes the journal"):
        Journal(tmp_path, LONG)
    closed(first)
    closed(Journal(tmp_path, LONG))


def test_the_disk_has_a_limit_and_room_comes_back(tmp_path):
    journal = Journal(tmp_path, JournalLimits(seconds=3600.0, file_bytes=300, waiting_bytes=1000))
    number = 0
    while (future := journal.append(event(number))).exception(60) is None:
        number += 1
    with pytest.raises(JournalFullError, match="not in the store yet"):
        future.result(60)
    assert written(tmp_path) == [f"e{each}" for each in range(number)]
    assert journal.figures().refused == 1
    assert journal.figures().waiting_bytes <= 1000
    journal.remove(journal.sealed(60))
    assert journal.room()
    assert journal.append(event(number)).result(60)
    closed(journal)


def test_a_repeat_is_there_once_and_a_contradiction_is_refused(tmp_path):
    journal = Journal(tmp_path, JournalLimits(seconds=3600.0, ids=2))
    first = [journal.append(event(1), b"a") for _ in range(5)]
    assert [future.result(60) for future in first] == [True, False, False, False, False]
    with pytest.raises(EventConflictError):
        journal.append(event(1), b"b")
    for number in (2, 3):  # the memory is bounded, so the first is forgotten
        assert journal.append(event(number), b"a").result(60)
    assert journal.append(event(1), b"b").result(60)
    assert written(tmp_path) == ["e1", "e2", "e3", "e1"]
    closed(journal)


def test_what_is_no_json_is_refused_alone(tmp_path):
    journal = Journal(tmp_path, LONG, lambda event: event | {"n": 1 / event["n"]} if "n" in event else event)
    wrong = [{"text": "\ud800"}, {"text": float("nan")}, {"text": object()}, {"n": 0}]
    futures = [journal.append({"event_id": "w"} | each) for each in wrong]
    good = journal.append(event(1))
    for future in futures:
        with pytest.raises(BadDataError, match="cannot be written"):
            future.result(60)
    assert good.result(60)
    assert written(tmp_path) == ["e1"]
    closed(journal)


def test_a_client_that_hangs_up_takes_no_event_back(tmp_path):
    journal = Journal(tmp_path, LONG)
    assert not journal.append(event(1), b"a").cancel()
    assert journal.append(event(1), b"a").result(60) is False
    closed(journal)


def test_nothing_is_taken_after_the_end(tmp_path):
    journal = Journal(tmp_path, LONG)
    last = journal.append(event(1))
    closed(journal)
    assert last.result(0)
    with pytest.raises(JournalFullError, match="closed"):
        journal.append(event(2))
    assert not journal.room()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("many", [1, 3, 10])
def test_a_disk_that_fails_loses_nothing_that_was_answered_for(tmp_path, monkeypatch, code, many):
    """At each system call: so many fail from there on. What was refused is not there, and may come again."""
    calls = _calls_without_faults(tmp_path / "none", monkeypatch)
    for first in range(1, calls + 1):
        disk = FaultyDisk(monkeypatch, code)
        directory = tmp_path / f"{first}"
        journal = Journal(directory, JournalLimits(seconds=3600.0, file_bytes=200))
        disk.count = 0
        disk.fails = lambda name, number, first=first: first <= number < first + many
        answered, tries = [], 0
        for number in range(8):
            while True:
                tries += 1
                try:
                    journal.append(event(number), b"x").result(60)
                    break
                except JournalFullError:
                    assert tries < 100
            answered.append(f"e{number}")
        closed(journal)
        assert answered == sorted(set(written(directory)))
        if many == 1:  # else the cut may fail, too
            assert len(answered) == len(written(directory))
        monkeypatch.undo()


def _calls_without_faults(directory: Path, monkeypatch) -> int:
    disk = FaultyDisk(monkeypatch)
    journal = Journal(directory, JournalLimits(seconds=3600.0, file_bytes=200))
    disk.count = 0
    for number in range(8):
        journal.append(event(number)).result(60)
    closed(journal)
    monkeypatch.undo()
    return disk.count


def test_many_large_events_at_once_make_files_of_bounded_size(tmp_path, monkeypatch):
    """Also where all of them wait for one sync."""
    held = threading.Event()
    monkeypatch.setattr("ippo_trainer.live.journal_file.os.fdatasync", lambda descriptor: held.wait(60))
    journal = Journal(tmp_path, JournalLimits(seconds=3600.0, file_bytes=1 << 20))
    futures = [journal.append(event(number, 300_000)) for number in range(20)]
    held.set()
    wait(futures, 60)
    assert sorted(written(tmp_path)) == sorted(f"e{number}" for number in range(20))
    closed(journal)
    assert all(path.stat().st_size < 3 << 20 for path in tmp_path.glob(f"*{SUFFIX}"))
