"""kopf's settings, and a watch thread that has nothing to talk to."""

import asyncio
from typing import Any

import pytest
from ippo_operator.cluster.access.kubeconfig import Login
from ippo_operator.handlers import watches
from ippo_operator.handlers.watches import Watches, settings


class Deaf:
    """Is told nothing."""

    def run_changed(self, key: Any, version: str) -> None:
        raise AssertionError

    def run_deleted(self, key: Any) -> None:
        raise AssertionError

    def child_changed(self, key: Any, delay: float) -> None:
        raise AssertionError


def nowhere() -> Login:
    return Login("https://127.0.0.1:1")


def test_children_are_selected_by_the_server_and_nothing_is_posted() -> None:
    made = settings(["team"])
    assert {str(selector): label for selector, label in made.watching.label_selectors.items()} != {}
    assert set(made.watching.label_selectors.values()) == {"ippo.dev/run-uid"}
    assert made.scanning.disabled
    assert not settings([]).scanning.disabled
    assert not made.posting.enabled
    assert isinstance(made.watching.server_timeout, int)


def test_without_a_server_everything_is_missing_and_it_stops_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "_FIRST_PATIENCE", 0.1)

    async def scene() -> None:
        watching = Watches(Deaf(), nowhere, ["team"])
        assert "iterativepporuns" in watching.missing
        watching.start()
        await asyncio.sleep(0.7)
        assert "jobs" in watching.missing
        await watching.stop()
        assert not watching._thread.is_alive()
        assert set(watching.missing) == {"iterativepporuns", "jobs", "pods", "deployments", "services"}

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_kopf_keeps_little_and_copies_nothing() -> None:
    made = settings([])
    assert made.watching.chunk_size == 50
    assert made.queueing.idle_timeout < 1
    assert made.persistence.diffbase_storage.build(body={"spec": {"a": 1}}) == {}  # type: ignore[arg-type]
    assert set(made.watching.field_selectors.values()) == {"status.phase!=Succeeded,status.phase!=Failed"}


def event(kind: str, name: str = "MODIFIED", **status: Any) -> dict[str, Any]:
    return {"type": name, "object": {"kind": kind, "metadata": {"name": "x"}, "status": status}}


def test_a_job_that_is_over_or_gone_wakes_its_run_at_once_and_one_that_starts_does_not() -> None:
    done = [{"type": "Complete", "status": "True"}]
    nearly = [{"type": "SuccessCriteriaMet", "status": "True"}, {"type": "Failed", "status": "False"}]
    assert watches._decisive(event("Job", conditions=done))
    assert watches._decisive(event("Job", "DELETED"))
    assert watches._decisive(event("Deployment"))
    assert watches._decisive(event("Service", "DELETED"))
    assert not watches._decisive(event("Job", "ADDED"))
    assert not watches._decisive(event("Job", active=1, conditions=nearly))
    assert not watches._decisive(event("Pod", phase="Running"))


def test_a_job_that_only_counts_its_pods_wakes_nobody() -> None:
    def job(name: str = "MODIFIED", generation: int = 1, **status: Any) -> dict[str, Any]:
        metadata = {"name": "x", "uid": "u", "generation": generation, "labels": {"a": "b"}}
        return {"type": name, "object": {"kind": "Job", "metadata": metadata, "status": status}}

    changes = watches._JobChanges()
    done = [{"type": "Complete", "status": "True"}]
    told = [
        job("ADDED"),
        job(active=1),
        job(active=1, ready=1),
        job(generation=2, active=1),
        job(generation=2, uncountedTerminatedPods={"succeeded": ["p"]}),
        job(generation=2, conditions=done),
        job(generation=2, conditions=done, succeeded=1),
        job("DELETED", generation=2, conditions=done),
    ]
    assert [changes.matters(one) for one in told] == [True, False, False, True, False, True, False, True]
    assert changes._known == {}
    assert changes.matters(event("Pod", phase="Running"))
    assert changes.matters(event("Deployment"))
