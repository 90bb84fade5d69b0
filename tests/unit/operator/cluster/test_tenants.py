"""What tenants do to their own runs: it is told where they look, and stops nothing else."""

import asyncio
import json
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from ippo_operator.cluster.client import SMALL, Client
from ippo_operator.cluster.errors import ApiError, TooLargeError
from ippo_operator.cluster.observe import trim
from ippo_operator.cluster.transport import Request, Response

from tests.kit.fake_api import FakeApi, Object, answer
from tests.kit.toy_cluster import (
    ToyController,
    ToyOperator,
    attempts,
    condition,
    job_condition,
    run_manifest,
    status_of,
    the_run,
    uid,
)


def at_first_job(metadata: dict[str, Any] | None = None, **spec: Any) -> tuple[FakeApi, ToyOperator]:
    """A run whose first job is there."""
    api = FakeApi()
    run = run_manifest(**spec)
    api.put("iterativepporuns", run | {"metadata": run["metadata"] | (metadata or {})})
    operator = ToyOperator(api)
    operator.settle()
    return api, operator


def events(api: FakeApi, reason: str) -> list[Object]:
    return [item for item in api.all("events") if item.get("reason") == reason]


# Metadata


@pytest.mark.parametrize(
    "metadata",
    [
        {"labels": {f"label-{n}": "x" for n in range(5000)}},
        {"annotations": {f"note-{n}": "é" * 40 for n in range(3000)}},
        {"finalizers": [f"example.com/f{n}" for n in range(60)]},
        {"ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "u"}] * 100},
        {"managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}], "somethingOfKubernetes2": {"a": 1}},
        {"labels": None, "annotations": None},
    ],
    ids=["labels", "annotations", "finalizers", "owners", "fields of later versions", "null"],
)
def test_no_metadata_that_kubernetes_takes_stalls_a_run(metadata: dict[str, Any]) -> None:
    api, operator = at_first_job()
    [first] = attempts(api)
    run = the_run(api)
    api.edit("iterativepporuns", "team", "small", metadata=run["metadata"] | metadata)
    controller = ToyController(api)
    operator.finish(controller)
    assert condition(api, "Succeeded")["status"] == "True"
    assert attempts(api)[0] == first
    assert len(attempts(api)) == 5


# A run on its way out


@pytest.mark.parametrize("served", [False, True], ids=["a stage", "servers too"])
def test_a_deleted_run_that_anothers_finalizer_keeps_is_stopped(served: bool) -> None:
    api, operator = at_first_job(**({"serve": {"engine": "Transformers"}} if served else {}))
    controller = ToyController(api)
    while served and not api.all("deployments"):
        controller.step()
        operator.settle()
    assert [job for job in api.all("jobs") if not (job.get("status") or {}).get("conditions")]
    run, kept = the_run(api), {"finalizers": ["example.com/keep"], "deletionTimestamp": "2026-01-31T12:00:00Z"}
    api.edit("iterativepporuns", "team", "small", metadata=run["metadata"] | kept)
    created = list(api.created)
    for _ in range(5):
        operator.settle()
        controller.step()
    assert all((job.get("status") or {}).get("conditions") for job in api.all("jobs"))
    assert api.all("deployments") == api.all("services") == []
    assert api.created == created


def test_what_belongs_to_another_stays_when_a_run_is_deleted() -> None:
    api, operator = at_first_job()
    other = {"metadata": {"name": "small", "namespace": "team"}, "spec": {"selector": {}}}
    api.put("services", other)
    job = {"metadata": {"name": "theirs", "namespace": "team", "labels": {"ippo.dev/run-uid": uid(the_run(api))}}}
    api.put("jobs", job | {"spec": {"template": {"spec": {}}}})
    run = the_run(api)
    gone = run["metadata"] | {"finalizers": ["x/y"], "deletionTimestamp": "2026-01-31T12:00:00Z"}
    api.edit("iterativepporuns", "team", "small", metadata=gone)
    operator.settle()
    assert "deletionTimestamp" not in api.objects["jobs", "team", "theirs"]["metadata"]
    assert ("services", "team", "small") in api.objects


# Jobs that somebody pauses


@pytest.mark.parametrize(
    ("spec", "why", "patch"),
    [
        ({"parallelism": 0}, "set its parallelism to 0", '{"spec":{"parallelism":1}}'),
        ({"suspend": True}, "somebody suspended it", '{"spec":{"suspend":false}}'),
    ],
    ids=["parallelism", "suspend"],
)
def test_a_paused_job_says_so_and_never_fails(spec: Object, why: str, patch: str) -> None:
    api, operator = at_first_job(pods={"common": {"pendingDeadlineSeconds": 60}})
    [name] = attempts(api)
    job = api.objects["jobs", "team", name]
    before = {field: job["spec"].get(field) for field in spec}
    api.edit("jobs", "team", name, spec=job["spec"] | spec)
    for _ in range(48):
        operator.settle()
        operator.now += timedelta(hours=1)
    found = condition(api, "Reconciling")
    assert (found["status"], found["reason"]) == ("True", "JobPaused")
    assert why in found["message"]
    assert f"kubectl patch job {name} --namespace team --type=merge -p '{patch}'" in found["message"]
    assert condition(api, "Queued")["status"] == "False"
    assert "lastFailure" not in status_of(api)
    assert len(events(api, "JobPaused")) == 1
    api.edit("jobs", "team", name, spec=api.objects["jobs", "team", name]["spec"] | before)
    operator.finish(ToyController(api))
    assert condition(api, "Succeeded")["status"] == "True"
    assert attempts(api)[0] == name


# A status that cannot be written


def refusing(status: int, reason: str, message: str) -> Any:
    def refuse(_number: int, request: Request) -> Response | None:
        return answer(status, reason, message) if request.path.endswith("/status") else None

    return refuse


@pytest.mark.parametrize(
    ("status", "reason", "message", "passes", "words"),
    [
        (422, "Invalid", "status.conditions: Too long: may not be longer than 10", 1, "Make the run smaller"),
        (403, "Forbidden", 'admission webhook "no.example" denied the request', 1, "Meet that policy"),
        (413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728", 1, "Make the run smaller"),
        (500, "InternalError", "etcdserver: request is too large", 1, "Make the run smaller"),
        (409, "Conflict", "the object has been modified", 8, "somebody else changes this run"),
    ],
)
def test_a_status_that_cannot_be_written_is_told_once_on_the_run(
    status: int, reason: str, message: str, passes: int, words: str
) -> None:
    api, operator = at_first_job()
    run = the_run(api)
    api.edit("iterativepporuns", "team", "small", spec=run["spec"] | {"suspend": True})
    api.before = refusing(status, reason, message)
    for number in range(60):
        with suppress(ApiError):
            operator.reconcile()
        assert len(events(api, "StatusNotWritten")) == (number + 1 >= passes)
        operator.now += timedelta(seconds=60)
    [event] = events(api, "StatusNotWritten")
    assert event["type"] == "Warning"
    assert words in event["note"]
    assert sum(call.method == "PATCH" for call in api.calls) <= 60 / 10 + 2
    api.before = lambda _number, _request: None
    operator.finish(ToyController(api))
    assert condition(api, "Suspended")["status"] == "True"


def test_conflicts_that_pass_are_nobodys_news() -> None:
    api, operator = at_first_job()
    run = the_run(api)
    api.edit("iterativepporuns", "team", "small", spec=run["spec"] | {"suspend": True})
    api.before = refusing(409, "Conflict", "the object has been modified")
    for _ in range(7):
        assert operator.reconcile().again
    api.before = lambda _number, _request: None
    operator.finish(ToyController(api))
    assert events(api, "StatusNotWritten") == []


# What is too large


def test_an_object_that_is_larger_than_most_is_left_to_who_reads_more() -> None:
    api, operator = at_first_job()
    run = the_run(api)
    labels = {f"label-{n}": "x" * 50 for n in range(SMALL // 60)}
    api.edit("iterativepporuns", "team", "small", metadata=run["metadata"] | {"labels": labels})
    small = operator.reconciler.reading_more(Client(api, most=SMALL))
    small._reads_all = False
    with pytest.raises(TooLargeError):
        asyncio.run(small.reconcile("team", "small"))
    assert events(api, "TooLarge") == []
    assert operator.reconcile().exists
    tiny = operator.reconciler.reading_more(Client(api, most=100_000))
    with pytest.raises(TooLargeError):
        asyncio.run(tiny.reconcile("team", "small"))


def test_kept_and_forged_jobs_are_read_a_few_at_a_time_and_remembered_in_little() -> None:
    api, operator = at_first_job(cleanup={"succeededSeconds": 10**6, "failedSeconds": 10**6})
    owner = {"apiVersion": "ippo.dev/v1alpha1", "kind": "IterativePPORun", "name": "small", "uid": uid(the_run(api))}
    for number in range(100):
        api.put(
            "jobs",
            {
                "metadata": {
                    "name": f"kept-{number:03d}",
                    "namespace": "team",
                    "labels": {"ippo.dev/run-uid": owner["uid"]},
                    "annotations": {"note": "x" * 1000},
                    "ownerReferences": [owner | {"controller": number % 2 == 0}],
                },
                "spec": {"template": {"spec": {"containers": [{"args": ["x" * 1000]}]}}},
                "status": {"conditions": [job_condition("Complete")]},
            },
        )
    for expected in (20, 20, 10, 0):
        api.calls.clear()
        operator.reconcile()
        names = [call.path.rsplit("/", 1)[1] for call in api.calls if "/jobs/kept-" in call.path]
        assert len(names) == expected
        assert all(int(name[-3:]) % 2 == 0 for name in names)
    known = operator.reconciler._owned._known["team", "small"]
    assert len(known) == 51
    assert len(json.dumps([str(job) for job in known.values()])) < 51 * 600


def huge_pod(owner: str) -> Object:
    """As large as a tenant can make one that is somebody's by its label."""
    text, annotations = "x" * 10**5, {f"note-{n}": "x" * 100 for n in range(2000)}
    container = {
        "name": "stage",
        "image": "i",
        "args": [text],
        "env": [{"name": f"V{n}", "value": text} for n in range(5)],
    }
    ended = {"terminated": {"exitCode": 1, "message": text, "finishedAt": "2026-01-31T12:00:00Z"}}
    return {
        "metadata": {
            "name": "p",
            "uid": "p-uid",
            "namespace": "team",
            "annotations": annotations | {"batch.kubernetes.io/job-completion-index": "7"},
            "labels": {f"label-{n}": "x" for n in range(2000)},
            "managedFields": [{"fieldsV1": {f"f:{n}": {} for n in range(2000)}}],
            "ownerReferences": [{"uid": owner, "controller": True}, *[{"uid": str(n)} for n in range(500)]],
        },
        "spec": {"nodeName": "n", "containers": [container] * 2},
        "status": {
            "phase": "Failed",
            "message": text,
            "conditions": [{"type": "DisruptionTarget", "status": "True", "message": text}] * 2,
            "containerStatuses": [{"name": "stage", "state": ended}],
        },
    }


def test_of_a_pod_of_any_size_only_what_it_tells_is_kept() -> None:
    kept = trim.pod(huge_pod("job-uid"))
    assert len(json.dumps(kept)) < 60_000
    assert kept["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] == "7"
    assert kept["metadata"]["ownerReferences"] == [{"uid": "job-uid", "controller": True}]
    [status] = kept["status"]["containerStatuses"]
    assert status["state"]["terminated"]["exitCode"] == 1
    assert len(status["state"]["terminated"]["message"]) < 5000


def test_pods_and_replica_sets_of_others_with_a_runs_labels_are_nobodys() -> None:
    api, operator = at_first_job(serve={"engine": "Transformers"})
    controller = ToyController(api, serves=lambda _template: False)
    while not api.all("replicasets"):
        controller.step()
        operator.settle()
    [ours] = api.all("replicasets")
    for number in range(5):
        forged = huge_pod("nobody")
        forged["metadata"] |= {"name": f"forged-{number}", "labels": ours["metadata"]["labels"]}
        api.put("pods", forged)
        other = {"name": f"forged-{number}", "namespace": "team", "labels": ours["metadata"]["labels"]}
        owner = [{"uid": "nobody", "controller": True}]
        api.put("replicasets", {"metadata": other | {"ownerReferences": owner}, "spec": ours["spec"]})
    operator.settle()
    assert "forged" not in json.dumps(status_of(api))
