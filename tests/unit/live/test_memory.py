"""Memory stays flat, however many events there are."""

import tracemalloc
from pathlib import Path

from ippo_trainer.live.index import LiveIndex
from ippo_trainer.live.journal import Journal, JournalLimits

from tests.kit.live_events import BEGIN, Chat, MemoryStore, put_segment
from tests.unit.live.test_index import routes


def grown(path: Path, journal: Journal, start: int, count: int) -> int:
    """Bytes by which the heap grew while so many events came and went."""
    before = tracemalloc.get_traced_memory()[0]
    for first in range(start, start + count, 100):
        futures = [journal.append({"event_id": f"e{number}"}, b"x" * 16) for number in range(first, first + 100)]
        for future in futures:
            future.result(60)
        while (sealed := journal.sealed(0)) is not None:
            journal.remove(sealed)
    return tracemalloc.get_traced_memory()[0] - before


def test_a_journal_holds_the_ids_that_it_remembers_and_no_more(tmp_path: Path) -> None:
    journal = Journal(tmp_path, JournalLimits(seconds=3600.0, file_bytes=1 << 12, ids=2000))
    tracemalloc.start()
    try:
        assert grown(tmp_path, journal, 0, 2000) < 2000 * 400
        assert grown(tmp_path, journal, 2000, 6000) < 300_000
    finally:
        tracemalloc.stop()
    journal.close()
    journal.release()


def test_an_index_holds_what_it_holds_on_the_disk(tmp_path: Path) -> None:
    """Ten times the events, the same memory."""

    def peak(path: Path, count: int) -> int:
        store = MemoryStore()
        for start in range(0, count, 100):
            chats = [Chat(f"c{number}") for number in range(start, start + 100)]
            put_segment(store, [chat.ask("tea?", "yes", BEGIN) for chat in chats], start)
        index = LiveIndex(path, store)
        tracemalloc.start()
        try:
            assert index.report(routes(), BEGIN).active.began == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            index.close()

    small = peak(tmp_path / "small", 200)
    assert peak(tmp_path / "large", 2000) < 1.5 * small + 500_000
