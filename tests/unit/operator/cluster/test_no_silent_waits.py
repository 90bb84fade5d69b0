"""A run that does not get on says why, and goes on by itself: no event has to wake it that never comes."""

from datetime import timedelta

import pytest

from tests.kit.fake_api import answer
from tests.kit.toy_cluster import attempts, begin, condition, edit, pod_of, stands, status_of

WEBHOOK = 'Internal error occurred: failed calling webhook "mjob.kb.io": no endpoints available for service "kueue"'
NO_FILES = 'MountVolume.SetUp failed for volume "ippo-spec" : configmap "x" not found'


def test_a_suspension_before_the_job_could_be_made_is_looked_at_again() -> None:
    api, operator, controller = begin()
    refusal = answer(403, "Forbidden", "exceeded quota: team-quota")
    api.before = lambda _n, request: refusal if request.method == "POST" and "jobs" in request.path else None
    operator.reconcile()
    edit(api, suspend=True)
    outcome = operator.reconcile()
    assert stands(api, "Reconciling") == ("True", "Suspending")
    assert outcome.requeue_after is not None
    assert outcome.requeue_after <= 5, "no event tells that a Job that was never made is gone"
    operator.reconcile()
    assert stands(api, "Suspended") == ("True", "Suspended")
    assert [item for item in api.all("configmaps") if item["metadata"]["name"] not in attempts(api)] == []
    api.before = lambda _n, _r: None
    edit(api, suspend=False)
    operator.finish(controller)
    assert stands(api, "Succeeded") == ("True", "Completed")


@pytest.mark.parametrize("kind", ["jobs", "deployments"])
def test_a_webhook_of_somebody_else_that_does_not_answer_is_told_and_heals(kind: str) -> None:
    api, operator, controller = begin(serve={"engine": "Transformers"})
    down = answer(500, "InternalError", WEBHOOK)
    api.before = lambda _n, request: down if request.writes and f"/{kind}" in request.path else None
    for _ in range(6):
        outcome = operator.reconcile()
        controller.step()
    if kind == "jobs":
        assert outcome.again
    told = condition(api, "Reconciling" if kind == "jobs" else "Ready")
    assert told["reason"] == "ChildRefused"
    assert "mjob.kb.io" in told["message"]
    assert "Bring the service behind that webhook back" in told["message"]
    api.before = lambda _n, _r: None
    operator.finish(controller)
    assert stands(api, "Succeeded") == ("True", "Completed")
    assert status_of(api)["budgets"] == {"tryAgain": 0, "crashes": 0, "disruptions": 0}


def test_a_stage_spec_that_somebody_deleted_before_its_pods_started_comes_back() -> None:
    api, operator, _ = begin()
    operator.settle()
    [job] = api.all("jobs")
    name = job["metadata"]["name"]
    before = api.objects["configmaps", "team", name]["data"]
    pod = api.put("pods", pod_of(job, 0, {"phase": "Pending"}))
    operator.settle()
    api.remove("configmaps", "team", name)
    event = {
        "metadata": {"name": "e", "namespace": "team"},
        "involvedObject": {"uid": pod["metadata"]["uid"]},
        "type": "Warning",
        "reason": "FailedMount",
        "message": NO_FILES,
    }
    api.put("events", event)
    api.edit("jobs", "team", name, status={"startTime": "2026-01-31T11:00:00Z"})
    old = pod["metadata"] | {"creationTimestamp": "2026-01-31T11:00:00Z"}
    api.edit("pods", "team", old["name"], metadata=old)
    operator.now = operator.now.replace(minute=5)
    operator.settle()
    assert stands(api, "Reconciling") == ("True", "PodNotStarted")
    assert api.objects["configmaps", "team", name]["data"] == before
    assert len(attempts(api)) == 1


def test_a_pod_that_does_not_end_because_its_node_is_gone_is_told() -> None:
    api, operator, controller = begin()
    operator.settle()
    controller.step()
    operator.settle()
    [pod] = api.all("pods")
    leaving = pod["metadata"] | {"deletionTimestamp": operator.now.strftime("%Y-%m-%dT%H:%M:%SZ")}
    api.edit("pods", "team", leaving["name"], metadata=leaving, spec={"nodeName": "gpu-7"})
    assert operator.settle().requeue_after == 60
    assert stands(api, "Reconciling") == ("True", "StageRunning")
    operator.now += timedelta(seconds=60)
    assert operator.settle().requeue_after == 60
    assert stands(api, "Reconciling") == ("True", "Disrupted")
    assert "kubectl delete node gpu-7" in condition(api, "Reconciling")["message"]
    edit(api, suspend=True)
    operator.settle()
    assert stands(api, "Reconciling") == ("True", "Suspending")
    assert "kubectl delete node gpu-7" in condition(api, "Reconciling")["message"]
    assert len(attempts(api)) == 1


def test_a_job_that_arrives_after_its_attempt_was_given_up_is_stopped() -> None:
    api, operator, controller = begin()
    operator.settle()
    [late] = api.all("jobs")
    edit(api, suspend=True)
    operator.settle()
    controller.step()
    operator.settle()
    assert stands(api, "Suspended") == ("True", "Suspended")
    api.put("jobs", late | {"status": {}})
    operator.settle()
    assert [job for job in api.all("jobs") if "deletionTimestamp" not in job["metadata"]] == []
    edit(api, suspend=False)
    operator.finish(controller)
    assert stands(api, "Succeeded") == ("True", "Completed")
    assert status_of(api)["budgets"]["disruptions"] == 0
