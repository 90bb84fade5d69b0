"""kopf's settings, and a watch thread that has nothing to talk to."""

import asyncio
import json
from typing import Any

import pytest
from ippo_operator.cluster.access.kubeconfig import Login
from ippo_operator.cluster.resources import DEPLOYMENTS, JOBS, PODS, RUNS, SERVICES, Resource
from ippo_operator.process import watches
from ippo_operator.process.narrow import Narrow
from ippo_operator.process.watches import Watches, settings


class Deaf:
    """Is told nothing."""

    def knows(self, key: Any) -> bool:
        return True

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
    assert made.watching.chunk_size == 100
    assert made.queueing.idle_timeout < 1
    assert made.persistence.diffbase_storage.build(body={"spec": {"a": 1}}) == {}  # type: ignore[arg-type]
    assert set(made.watching.field_selectors.values()) == {"status.phase!=Succeeded,status.phase!=Failed"}


NARROW = Narrow((RUNS, *watches.CHILDREN), lambda key: key == ("team", "small"))


def told(resource: Resource, event: str = "MODIFIED", status: Any = None, **metadata: Any) -> Any:
    """What kopf is told of a change, as the watch's line tells it."""
    labels = {"ippo.dev/run": "small", "ippo.dev/run-uid": "u"}
    metadata = {"name": "x", "namespace": "team", "uid": "x-uid", "resourceVersion": "7", "labels": labels} | metadata
    line = {"type": event, "object": {"kind": resource.kind, "metadata": metadata, "status": status or {}}}
    return json.loads(NARROW.event(resource, json.dumps(line).encode()))


def test_a_job_that_is_over_or_gone_wakes_its_run_at_once_and_one_that_starts_does_not() -> None:
    done = {"conditions": [{"type": "Complete", "status": "True"}]}
    nearly = {"conditions": [{"type": "SuccessCriteriaMet", "status": "True"}, {"type": "Failed", "status": "False"}]}
    assert watches._decisive(told(JOBS, status=done))
    assert watches._decisive(told(JOBS, "DELETED"))
    assert watches._decisive(told(DEPLOYMENTS))
    assert watches._decisive(told(SERVICES, "DELETED"))
    assert not watches._decisive(told(JOBS, "ADDED"))
    assert not watches._decisive(told(JOBS, status={"active": 1} | nearly))
    assert not watches._decisive(told(PODS, status={"phase": "Running"}))


def test_a_job_that_only_counts_its_pods_wakes_nobody() -> None:
    changes = watches._JobChanges()
    done = [{"type": "Complete", "status": "True"}]
    events = [
        told(JOBS, "ADDED", generation=1),
        told(JOBS, status={"active": 1}, generation=1),
        told(JOBS, status={"active": 1, "ready": 1}, generation=1),
        told(JOBS, status={"active": 1}, generation=2),
        told(JOBS, status={"uncountedTerminatedPods": {"succeeded": ["p"]}}, generation=2),
        told(JOBS, status={"conditions": done}, generation=2),
        told(JOBS, status={"conditions": done, "succeeded": 1}, generation=2),
        told(JOBS, "DELETED", {"conditions": done}, generation=2),
    ]
    assert [changes.matters(one) for one in events] == [True, False, False, True, False, True, False, True]
    assert changes._known == {}
    assert changes.matters(told(PODS, status={"phase": "Running"}))
    assert changes.matters(told(DEPLOYMENTS))


def test_what_is_known_of_jobs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "_JOBS_KNOWN", 5)
    changes = watches._JobChanges()
    assert all(changes.matters(told(JOBS, uid=f"job-{number}")) for number in range(50))
    assert len(changes._known) == 5
    assert not changes.matters(told(JOBS, uid="job-49"))


@pytest.mark.parametrize("resource", [RUNS, *watches.CHILDREN], ids=lambda resource: resource.plural)
def test_kopf_is_told_little_of_objects_of_any_size_and_number(resource: Resource) -> None:
    labels = {"ippo.dev/run": "small", "ippo.dev/run-uid": "u"} | {f"label-{n}": "x" * 60 for n in range(10_000)}
    annotations = {"note": "<" * (1 << 18)}
    lines = [
        told(resource, name=f"x-{n}", uid=f"u-{n}", labels=labels, annotations=annotations, status={"big": "x" * 10**6})
        for n in range(5)
    ]
    assert all(len(json.dumps(line)) < 600 for line in lines)
    uids = {told(resource, name=f"x-{n}", uid=f"u-{n}")["object"]["metadata"]["uid"] for n in range(500)}
    assert len(uids) <= 64


def test_children_of_runs_that_are_not_there_only_move_the_watch_on() -> None:
    line = told(JOBS, labels={"ippo.dev/run": "nobody", "ippo.dev/run-uid": "u"})
    assert line == {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "7"}}}
    assert told(JOBS, labels=None)["type"] == "BOOKMARK"
    for passing in (
        b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}',
        b'{"type":"ERROR","object":{}}',
    ):
        assert NARROW.event(JOBS, passing) == passing


def test_requests_are_told_by_their_path() -> None:
    assert NARROW.resource("/apis/batch/v1/namespaces/team/jobs") == JOBS
    assert NARROW.resource("/apis/batch/v1/jobs") == JOBS
    assert NARROW.resource("/api/v1/namespaces/jobs/pods") == PODS
    assert NARROW.resource("/api/v1/namespaces/namespaces/pods") == PODS
    assert NARROW.resource("/k8s/clusters/c-1/apis/batch/v1/jobs") == JOBS
    for other in ("/apis/batch/v1/namespaces/team/jobs/j", "/apis/batch/v1", "/api/v1/namespaces/pods", "/version"):
        assert NARROW.resource(other) is None
