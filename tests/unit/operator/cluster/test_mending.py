"""A Job cannot be changed: one that waits for what the spec no longer asks for gives way to a new attempt."""

from typing import Any

import pytest

from tests.kit.fake_api import FakeApi, Object, answer
from tests.kit.planner_world import good_result
from tests.kit.toy_cluster import (
    ToyController,
    ToyOperator,
    attempts,
    begin,
    condition,
    edit,
    ended_status,
    job_condition,
    pod_of,
    spec_of,
    status_of,
)

PULLING: Object = {
    "phase": "Pending",
    "containerStatuses": [{"name": "stage", "image": "typo", "state": {"waiting": {"reason": "ErrImagePull"}}}],
}


def waiting_for_an_image(**spec: Any) -> tuple[FakeApi, ToyOperator, ToyController]:
    api, operator, controller = begin(**spec)
    operator.settle()
    [job] = api.all("jobs")
    api.put("pods", pod_of(job, 0, PULLING))
    operator.settle()
    assert condition(api, "Reconciling")["reason"] == "ImagePullFailed"
    return api, operator, controller


@pytest.mark.parametrize(
    "change",
    [
        {"pods": {"common": {"image": "right"}}},
        {"pods": {"warmStart": {"image": "right"}}},
        {"serviceAccountName": "trainer"},
        {"queue": {"localQueueName": "gpus"}},
        {"artifacts": {"s3": {"bucket": "artifacts", "credentialsSecretName": "right"}}},
        {"artifacts": {"s3": {"bucket": "artifacts", "endpointUrl": "http://right:9000"}}},
    ],
    ids=["pods", "its own pods", "service account", "queue", "credentials", "endpoint"],
)
def test_what_is_corrected_in_the_spec_is_tried_at_no_cost(change: Object) -> None:
    api, operator, controller = waiting_for_an_image(retries={"crashes": 0, "tryAgain": 0, "disruptions": 0})
    [first] = attempts(api)
    edit(api, **change)
    operator.settle()
    [old] = api.all("jobs")
    assert "deletionTimestamp" in old["metadata"]
    assert attempts(api) == [first], "never two attempts at once"
    assert condition(api, "Reconciling")["status"] == "True"
    assert "what the spec says now" in condition(api, "Reconciling")["message"]
    assert controller.step()  # the Job's pods are gone
    operator.settle()
    assert attempts(api)[0] == first
    assert attempts(api)[1].rsplit("-", 1)[0] == "small-i0-warm-start-a2"
    if "queue" not in change:
        operator.finish(controller)
        assert condition(api, "Succeeded")["status"] == "True"
        assert "lastFailure" not in status_of(api)
    assert status_of(api)["budgets"] == {"tryAgain": 0, "crashes": 0, "disruptions": 0}


def test_what_other_stages_get_does_not_matter_to_this_one() -> None:
    api, operator, _ = waiting_for_an_image()
    edit(api, pods={"improve": {"image": "right"}}, cleanup={"failedSeconds": 7})
    operator.settle()
    assert "deletionTimestamp" not in api.all("jobs")[0]["metadata"]


def test_an_attempt_that_runs_goes_on_with_what_it_has() -> None:
    api, operator, controller = waiting_for_an_image()
    api.edit("pods", "team", f"{attempts(api)[0]}-0", status={"phase": "Running"})
    edit(api, pods={"common": {"image": "right"}})
    operator.finish(controller)
    assert condition(api, "Succeeded")["status"] == "True"
    assert len(attempts(api)) == 5


def test_a_job_of_an_operator_before_this_rule_is_left_alone() -> None:
    api, operator, _ = waiting_for_an_image()
    [job] = api.all("jobs")
    del job["metadata"]["annotations"]["ippo.dev/settings-digest"]
    edit(api, pods={"common": {"image": "right"}})
    operator.settle()
    assert "deletionTimestamp" not in api.all("jobs")[0]["metadata"]


def test_a_stage_that_ended_well_while_it_was_told_to_stop_is_done() -> None:
    api, operator, _ = waiting_for_an_image()
    edit(api, pods={"common": {"image": "right"}})
    operator.settle()
    [job] = api.all("jobs")
    result = good_result(spec_of(api, job["metadata"]["name"]))
    api.edit("pods", "team", f"{job['metadata']['name']}-0", status=ended_status(0, result.to_message().decode()))
    api.edit("jobs", "team", job["metadata"]["name"], status={"conditions": [job_condition("Complete")]})
    operator.settle()
    assert status_of(api)["startPolicy"]


def test_a_job_of_an_operator_that_left_the_store_out_is_not_stopped_by_an_upgrade() -> None:
    api, operator, _ = waiting_for_an_image()
    [job] = api.all("jobs")
    del job["metadata"]["annotations"]["ippo.dev/store-digest"]
    operator.settle()
    assert "deletionTimestamp" not in api.all("jobs")[0]["metadata"]


def test_a_stage_spec_whose_job_was_refused_gets_the_address_that_the_store_has_now() -> None:
    api, operator, _ = begin()
    no_quota = answer(403, "Forbidden", "exceeded quota: team-quota")
    api.before = lambda _n, request: no_quota if request.method == "POST" and "/jobs" in request.path else None
    operator.reconcile()
    [stage] = api.all("configmaps")
    assert api.all("jobs") == []
    edit(api, artifacts={"s3": {"bucket": "artifacts", "endpointUrl": "http://right:9000"}})
    api.before = lambda _n, _request: None
    operator.settle()
    [name] = attempts(api)
    store = spec_of(api, name).store.s3
    assert store is not None
    assert (stage["metadata"]["name"], store.endpoint_url) == (name, "http://right:9000")
