"""Clocks that are wrong: of the operator, of the API server, of the operator before; and one that is set meanwhile."""

from datetime import timedelta

import pytest

from tests.kit.toy_cluster import ToyOperator, attempts, begin, complain, condition, status_of

HOURS = [-26, -1, 0, 1, 26]


@pytest.mark.parametrize("hours", HOURS)
def test_an_operator_whose_clock_is_wrong_brings_a_run_to_its_end(hours: int) -> None:
    api, operator, controller = begin()
    operator.skew = timedelta(hours=hours)
    operator.patience = 1e9
    operator.finish(controller)
    assert condition(api, "Succeeded")["status"] == "True"
    assert len(attempts(api)) == 5


@pytest.mark.parametrize("hours", HOURS)
def test_operators_whose_clocks_differ_take_turns(hours: int) -> None:
    api, one, controller = begin(iterations={"max": 2})
    other = ToyOperator(api)
    other.skew = timedelta(hours=hours)
    for _ in range(40):
        one.reconcile()
        other.reconcile()
        controller.step()
    assert condition(api, "Succeeded")["status"] == "True"
    assert len(attempts(api)) == len(set(attempts(api))) == 9
    assert status_of(api)["budgets"] == {"tryAgain": 0, "crashes": 0, "disruptions": 0}


@pytest.mark.parametrize("hours", [-26, -1, 1, 26])
def test_a_clock_that_is_set_during_a_backoff_neither_skips_nor_repeats_an_attempt(hours: int) -> None:
    api, operator, controller = begin(retries={"crashes": 1, "backoffSeconds": 60})
    controller.ending = lambda spec: (1, "bug")
    operator.settle()
    controller.step()
    controller.step()
    assert operator.settle().requeue_after == 60
    operator.skew = timedelta(hours=hours)
    wait = operator.settle().requeue_after
    operator.now += timedelta(seconds=wait or 0)
    operator.settle()
    assert len(attempts(api)) == 2
    assert wait is None or wait <= 120, "nobody waits for hours because a clock was wrong"


@pytest.mark.parametrize("hours", HOURS)
def test_why_a_pod_cannot_be_made_is_told_at_once_whatever_the_clocks_say(hours: int) -> None:
    api, operator, _ = begin()
    operator.skew = timedelta(hours=hours)
    operator.settle()
    complain(api, 'serviceaccount "trainer" not found')
    operator.now += timedelta(seconds=4)
    operator.settle()
    assert condition(api, "Reconciling")["reason"] == "PodRefused"
    assert "Create it, or correct spec.serviceAccountName." in condition(api, "Reconciling")["message"]


def test_a_job_that_comes_out_of_its_queue_after_hours_is_watched_as_a_new_one() -> None:
    api, operator, _ = begin(queue={"localQueueName": "gpus"})
    operator.settle()
    [job] = api.all("jobs")
    operator.now += timedelta(hours=5)
    started = operator.now.strftime("%Y-%m-%dT%H:%M:%SZ")
    name = job["metadata"]["name"]
    api.edit("jobs", "team", name, spec=job["spec"] | {"suspend": False}, status={"startTime": started})
    assert operator.settle().requeue_after == 4
