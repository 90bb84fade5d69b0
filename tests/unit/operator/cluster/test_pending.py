"""Pods that wait for too long: the Job is stopped and gone before its failure is counted. And what is left behind."""

from datetime import timedelta
from typing import Any

from tests.kit import toy_cluster
from tests.kit.fake_api import FakeApi
from tests.kit.toy_cluster import ToyController, ToyOperator, attempts, condition, pod_of, stands, status_of, the_run

LIMIT: dict[str, Any] = {"common": {"pendingDeadlineSeconds": 3600}, "warmStart": {"pendingDeadlineSeconds": 300}}
NO_NODE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available."}
PENDING = {"phase": "Pending", "conditions": [NO_NODE]}


def at_first_job(**spec: Any) -> tuple[FakeApi, ToyOperator, ToyController]:
    """A run whose first job is there."""
    api, operator, controller = toy_cluster.begin(pods=LIMIT, **spec)
    operator.settle()
    return api, operator, controller


def pending_pod(api: FakeApi) -> None:
    [job] = api.all("jobs")
    api.put("pods", pod_of(job, 0, PENDING))


def test_pods_that_wait_for_too_long_are_given_up_and_tried_again() -> None:
    api, operator, controller = at_first_job()
    pending_pod(api)
    [first] = attempts(api)
    operator.now += timedelta(seconds=290)
    assert operator.settle().requeue_after == 10
    assert stands(api, "Reconciling") == ("True", "Unschedulable")
    operator.now += timedelta(seconds=10)
    operator.settle()
    [job] = api.all("jobs")
    assert "deletionTimestamp" in job["metadata"]
    assert stands(api, "Reconciling") == ("True", "PendingDeadlineExceeded")
    assert attempts(api) == [first]
    assert "lastFailure" not in status_of(api)
    controller.step()  # pods and Job are gone
    operator.settle()
    failure = status_of(api)["lastFailure"]
    assert (failure["kind"], failure["reason"]) == ("TryAgain", "PendingDeadlineExceeded")
    assert "300 s" in failure["message"]
    assert "0/3 nodes" in failure["message"]
    assert status_of(api)["budgets"]["tryAgain"] == 1
    operator.finish(controller)
    assert stands(api, "Ready") == ("True", "Completed")
    assert len(attempts(api)) == 6


def test_the_stages_own_limit_comes_before_the_common_one() -> None:
    api, operator, controller = at_first_job()
    while status_of(api).get("stage") != "collect" or not status_of(api).get("active"):
        controller.step()
        operator.settle()
    job = next(item for item in api.all("jobs") if "collect" in item["metadata"]["name"])
    api.put("pods", pod_of(job, 0, PENDING))
    operator.now += timedelta(seconds=3590)
    operator.settle()
    assert stands(api, "Reconciling") == ("True", "Unschedulable")
    operator.now += timedelta(seconds=10)
    operator.settle()
    assert stands(api, "Reconciling") == ("True", "PendingDeadlineExceeded")


def test_the_time_in_a_queue_does_not_count() -> None:
    api, operator, controller = at_first_job(queue={"localQueueName": "q"})
    operator.now += timedelta(days=9)
    operator.settle()
    assert stands(api, "Queued") == ("True", "WaitingForQuota")
    [job] = api.all("jobs")
    started = operator.now.strftime("%Y-%m-%dT%H:%M:%SZ")
    api.edit(
        "jobs", "team", job["metadata"]["name"], spec=job["spec"] | {"suspend": False}, status={"startTime": started}
    )
    operator.now += timedelta(seconds=290)
    operator.settle()
    assert status_of(api)["active"]["jobName"] == job["metadata"]["name"]
    assert "overdue" not in status_of(api)["active"]
    operator.now += timedelta(seconds=20)  # no pod at all, since it left the queue
    operator.settle()
    assert "overdue" in status_of(api)["active"]
    controller.step()
    operator.settle()
    assert status_of(api)["lastFailure"]["reason"] == "PendingDeadlineExceeded"


def test_a_job_whose_pods_start_in_time_is_left_alone() -> None:
    api, operator, controller = at_first_job()
    controller.step()
    operator.now += timedelta(seconds=400)
    operator.settle()
    assert "overdue" not in status_of(api)["active"]
    operator.finish(controller)
    assert stands(api, "Ready") == ("True", "Completed")
    assert len(attempts(api)) == 5


def test_a_suspended_run_gives_nothing_up() -> None:
    api, operator, controller = at_first_job()
    pending_pod(api)
    operator.now += timedelta(seconds=400)
    operator.reconcile()
    api.edit("iterativepporuns", "team", "small", spec=the_run(api)["spec"] | {"suspend": True})
    operator.settle()
    controller.step()
    operator.settle()
    assert stands(api, "Suspended")[0] == "True"
    assert "lastFailure" not in status_of(api)


def test_waiting_for_ever_ends_when_the_budget_does() -> None:
    api, operator, controller = at_first_job(retries={"tryAgain": 1, "backoffSeconds": 0})
    for _ in range(2):
        operator.now += timedelta(seconds=301)
        operator.settle()
        controller._look_at(api.all("jobs")[0])
        operator.settle()
    assert stands(api, "Stalled") == ("True", "BudgetExhausted")
    assert "pendingDeadlineSeconds" in condition(api, "Stalled")["message"]


def test_stage_specs_of_jobs_that_are_gone_do_not_pile_up() -> None:
    api, operator, controller = at_first_job()
    for _ in range(3):
        [job] = api.all("jobs")
        api.remove("jobs", "team", job["metadata"]["name"])
        operator.settle()
    assert len(attempts(api)) == 4
    assert [item["metadata"]["name"] for item in api.all("configmaps")] == attempts(api)[-1:]
    controller.step()
    api.edit("iterativepporuns", "team", "small", spec=the_run(api)["spec"] | {"suspend": True})
    operator.settle()
    controller.step()
    operator.settle()
    assert stands(api, "Suspended")[0] == "True"
    assert api.all("configmaps") == []
