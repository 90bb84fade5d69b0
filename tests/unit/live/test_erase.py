"""A conversation that is taken out: nothing of it is left in segments, late copies count for nothing, and what has
learnt from it is named."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from ippo_trainer.contract.errors import TryAgainError
from ippo_trainer.contract.layout import LIVE
from ippo_trainer.contract.spec import StoreLocation
from ippo_trainer.data.turns import write_turns
from ippo_trainer.live.conversations import fold
from ippo_trainer.live.erase import erase
from ippo_trainer.live.index import LiveIndex
from ippo_trainer.live.reading import events, segments
from ippo_trainer.live.redaction import PATTERNS, pseudonym, redaction
from ippo_trainer.live.standing import Rules
from ippo_trainer.store import open_store
from ippo_trainer.store.artifact import publish
from ippo_trainer.store.base import Store

from tests.kit.live_events import BEGIN, DAY, Chat, MemoryStore, put_segment, shop
from tests.unit.live.test_index import routes

GONE = "c3"


class Live:
    """The folder of live logs of a store in memory, as a store."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store

    def put(self, key: str, source: Any, *, if_absent: bool = False) -> None:
        self.store.put(f"{LIVE}/{key}", source, if_absent=if_absent)

    def read(self, key: str, limit: int = 1 << 30) -> bytes:
        return self.store.read(f"{LIVE}/{key}", limit)

    def list(self, prefix: str) -> Any:
        found = self.store.list(f"{LIVE}/{prefix}".rstrip("/"))
        return (type(info)(info.key.removeprefix(f"{LIVE}/"), info.size) for info in found)

    def describe(self, key: str) -> str:
        return key


def logged(store: MemoryStore) -> list[dict[str, Any]]:
    return [event for key in segments(store, LIVE) for event in events(store, key)]


def filled() -> tuple[MemoryStore, list[dict[str, Any]]]:
    store, everything = MemoryStore(), shop(4, 12)
    for number, start in enumerate(range(0, len(everything), 7)):
        put_segment(Live(store), everything[start : start + 7], number)
    return store, everything


def ids(found: list[dict[str, Any]]) -> set[str]:
    return {event["event_id"] for event in found}


def test_nothing_of_it_is_left_and_all_else_is() -> None:
    store, everything = filled()
    mine = {event["event_id"] for event in everything if event["conversation_id"] == GONE}
    dry = erase(store, GONE, BEGIN, dry_run=True)
    assert ids(logged(store)) == ids(everything)
    erasure = erase(store, GONE, BEGIN)
    assert (erasure.segments, erasure.events) == (dry.segments, dry.events)
    assert erasure.events >= len(mine) > 0
    left = [event for event in logged(store) if event["kind"] != "erased"]
    assert ids(left) == ids(everything) - mine
    assert {key[:15] for key in segments(store, LIVE)} == {f"{LIVE}/2025-11-27"}  # retention is by day
    assert erase(store, GONE, BEGIN + 1).segments == []


@pytest.mark.parametrize("number", range(1, 7))
def test_a_crash_at_any_moment_does_no_harm(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store, everything = filled()
    calls = 0

    def failing(call: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                raise TryAgainError("the store does not answer")
            return call(*arguments, **options)

        return counted

    with monkeypatch.context() as patch:
        patch.setattr(store, "put", failing(store.put))
        patch.setattr(store, "delete", failing(store.delete))
        with pytest.raises(TryAgainError):
            erase(store, GONE, BEGIN)
    others = {event["event_id"] for event in everything if event["conversation_id"] != GONE}
    assert others <= ids(logged(store))
    erase(store, GONE, BEGIN + 1)
    left = [event for event in logged(store) if event["kind"] != "erased"]
    assert ids(left) == others


def test_a_late_copy_counts_for_nothing(tmp_path: Path) -> None:
    """Also in an index that has counted the conversation before."""
    store = MemoryStore()
    chat = Chat(GONE)
    first = chat.ask("tea?", "yes", BEGIN)
    put_segment(Live(store), [first], 1)
    index = LiveIndex(tmp_path / "index", Live(store))
    assert index.report(routes(), BEGIN + 1).active.began == 1
    erase(store, GONE, BEGIN + 2)
    put_segment(Live(store), [first, chat.close(BEGIN + 1, True)], 2)
    for each in (index, LiveIndex(tmp_path / "anew", Live(store))):
        assert each.report(routes(), BEGIN + 3).active.began == 0
        each.close()


def test_a_conversation_with_a_pseudonym_is_erased_by_its_name() -> None:
    store = MemoryStore()
    name = "+49 171 1234567"
    put_segment(Live(store), [redaction(tuple(PATTERNS))(Chat(name).ask("tea?", "yes", BEGIN))])
    assert logged(store)[0]["conversation_id"] == pseudonym(name)
    assert erase(store, name, BEGIN).events == 1


def test_what_has_learnt_from_it_is_named(tmp_path: Path) -> None:
    store = open_store(StoreLocation(directory=str(tmp_path / "store")))
    data = {name: _data(store, tmp_path / name, [name]) for name in ("c1", GONE)}
    policies = [_made(store, tmp_path / "p0", "policy", 1, {"data": data["c1"]})]
    policies += [_made(store, tmp_path / "p1", "policy", 2, {"data": data[GONE], "policy": policies[0]})]
    policies += [_made(store, tmp_path / "p2", "policy", 3, {"data": data["c1"], "policy": policies[1]})]
    q = _made(store, tmp_path / "q", "q", 2, {"data": data[GONE]})
    found = erase(store, GONE, BEGIN, dry_run=True).artifacts
    assert {each.digest for each in found} == {data[GONE], policies[1], policies[2], q}
    assert {each.kind for each in found} == {"data", "policy", "q"}


def _data(store: Store, folder: Path, names: list[str]) -> str:
    folder.mkdir()
    lives = [
        fold(name, [], [Chat(name).ask("tea?", "yes", BEGIN)], Rules(1800.0, 7 * DAY), Counter()) for name in names
    ]
    write_turns(folder / "turns.parquet", [live.content for live in lives if live is not None])
    return publish(store, "iterations/0001/collect", folder, "data").digest


def _made(store: Store, folder: Path, kind: str, iteration: int, inputs: dict[str, str]) -> str:
    folder.mkdir()
    (folder / "weights").write_text(folder.name)
    return publish(store, f"iterations/{iteration:04d}/{kind}", folder, kind, inputs).digest
