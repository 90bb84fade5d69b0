"""`ippo erase` of a run in a folder."""

from pathlib import Path

import pytest
from ippo_operator.cli.erase.account import lines
from ippo_operator.local.folder import RunFolder
from ippo_trainer.contract.layout import LIVE
from ippo_trainer.live.erase import Erasure, StoredArtifact
from ippo_trainer.live.reading import events, segments
from ippo_trainer.store import open_store
from ippo_trainer.store.base import Store

from tests.kit.ippo_command import Ippo
from tests.kit.live_events import BEGIN, Chat, put_segment
from tests.kit.planner_world import make_run


@pytest.fixture
def live(tmp_path: Path) -> tuple[RunFolder, Store]:
    folder = RunFolder(tmp_path / "run")
    with folder.lock():
        run = folder.begin(make_run())
    store = open_store(folder.store(run).below(LIVE))
    put_segment(store, [Chat(name).ask("tea?", "yes", BEGIN) for name in ("c1", "c2")])
    return folder, store


def kinds(store: Store) -> list[tuple[str, str]]:
    found = [event for key in segments(store) for event in events(store, key)]
    return sorted((event["conversation_id"], event["kind"]) for event in found)


def test_it_takes_a_conversation_out(ippo: Ippo, live: tuple[RunFolder, Store]) -> None:
    folder, store = live
    dry = ippo("erase", f"{folder.path}/", "c1", "--dry-run")
    assert (dry.code, dry.out.splitlines()[0]) == (0, "c1: 1 events in 1 segments would be erased")
    assert kinds(store) == [("c1", "suggestion"), ("c2", "suggestion")]
    answer = ippo("erase", f"{folder.path}/", "c1")
    assert answer.code == 0, answer.err
    assert answer.out.startswith("c1: 1 events in 1 segments erased\n")
    assert "No data of the run hold it" in answer.out
    assert {("c1", "erased"), ("c2", "suggestion")} <= set(kinds(store))
    assert ("c1", "suggestion") not in kinds(store)


def test_what_has_learnt_is_told() -> None:
    artifacts = [StoredArtifact("i/collect/a", "data", "d1"), StoredArtifact("i/policy/b", "policy", "d2")]
    text = "\n".join(lines(Erasure(["s"], 3, artifacts), "c1", False, "d2"))
    assert "data        i/collect/a\n" in text
    assert "policy      i/policy/b  the current policy" in text
    assert "Of these, data may hold its texts" in text
    assert "policy.base" in text


def test_a_folder_that_is_no_run(ippo: Ippo, tmp_path: Path) -> None:
    answer = ippo("erase", f"{tmp_path}/", "c1")
    assert answer.code == 64
    assert ippo("erase", f"{tmp_path}/", "c1", "--endpoint-url", "http://x").code == 64
