"""When a roll-out that failed is tried again, which time does not count, and what an outage after it says."""

import copy
from datetime import timedelta
from typing import Any

import pytest

from tests.kit.fake_api import FakeApi, Object, Request
from tests.kit.toy_cluster import ToyController, ToyOperator, condition, deployment_status, edit, stands, status_of

from .served_runs import begin_serving, deployment, finished, only, promoted, served

SERVE: dict[str, Any] = {"progressDeadlineSeconds": 600}


def rolled_back() -> tuple[FakeApi, ToyOperator, ToyController, str]:
    """A run whose second policy did not get ready, and the digest of the first."""
    api, operator, controller = finished(serve=SERVE)
    good = promoted(api)
    controller.serves = only(good)
    edit(api, iterations={"max": 2})
    operator.finish(controller)
    assert stands(api, "Ready") == ("False", "RolledBack")
    assert served(api) == good
    return api, operator, controller, good


@pytest.mark.parametrize(
    "change",
    [
        {"serve": SERVE | {"strategy": "Recreate"}},
        {"serve": SERVE | {"replicas": 2}},
        {"serve": {"progressDeadlineSeconds": 601}},
        {"serve": SERVE | {"onFailure": "Hold"}},
        {"retries": {"requested": 1}},
    ],
)
def test_whatever_could_help_has_it_tried_again(change: Object) -> None:
    api, operator, controller, good = rolled_back()
    controller.serves = lambda _: True
    operator.finish(controller)
    assert served(api) == good  # not by itself
    edit(api, **change)
    operator.finish(controller)
    assert stands(api, "Ready") == ("True", "Completed")
    assert served(api) == promoted(api) != good


def test_another_chance_that_fails_too_is_rolled_back_again_once() -> None:
    api, operator, controller, good = rolled_back()
    edit(api, serve=SERVE | {"strategy": "Recreate"})
    operator.finish(controller)
    assert stands(api, "Ready") == ("False", "RolledBack")
    assert served(api) == good
    writes = sum(request.writes for request in api.calls)
    operator.finish(controller)
    assert sum(request.writes for request in api.calls) == writes


def test_servers_that_were_left_for_a_look_get_the_whole_time_again() -> None:
    serve = SERVE | {"onFailure": "Hold"}
    api, operator, controller = begin_serving(serve=serve)
    controller.serves = lambda _: False
    operator.finish(controller)
    assert stands(api, "Stalled") == ("True", "RolloutTimedOut")
    edit(api, serve=serve | {"replicas": 2})
    operator.settle()
    assert stands(api, "Stalled")[0] == "False"
    controller.serves = lambda _: True
    operator.finish(controller)
    assert stands(api, "Ready") == ("True", "Completed")


# Time that does not count


def promote(operator: ToyOperator, controller: ToyController) -> None:
    """Until the next policy is there and its servers are waited for, which may be for ever."""
    edit(operator.api, iterations={"max": 2})
    operator.rest(controller)
    for _ in range(3):
        operator.now += timedelta(hours=1)
        operator.settle()


def test_an_operator_that_died_before_it_changed_the_deployment_does_not_count_its_absence() -> None:
    api, operator, controller = finished(serve=SERVE)

    def die(_number: int, request: Request) -> None:
        if request.method == "PATCH" and "deployments" in request.path:
            raise KeyboardInterrupt

    edit(api, iterations={"max": 2})
    api.before = die
    with pytest.raises(KeyboardInterrupt):
        operator.finish(controller)
    api.before = lambda _number, _request: None
    operator = ToyOperator(api)
    operator.now += timedelta(hours=1)
    operator.finish(controller)
    assert stands(api, "Ready") == ("True", "Completed")


def test_a_deployment_that_is_on_its_way_out_does_not_count() -> None:
    api, operator, controller = finished(serve=SERVE)
    metadata = deployment(api)["metadata"] | {"deletionTimestamp": "2026-01-31T12:00:00Z"}
    api.edit("deployments", "team", "small", metadata=metadata)
    promote(operator, controller)
    assert "is being deleted" in condition(api, "Ready")["message"]
    api.remove("deployments", "team", "small")
    operator.finish(controller)
    assert stands(api, "Ready") == ("True", "Completed")


def test_that_an_earlier_roll_out_to_the_same_servers_took_too_long_does_not_count() -> None:
    """The Deployment controller writes observedGeneration first and takes back its verdict with the next change."""
    api, operator, controller = begin_serving(serve=SERVE | {"onFailure": "Hold"})
    controller.serves = lambda _: False
    operator.finish(controller)
    gave_up = operator.now.isoformat()
    edit(api, pods={"serve": {"image": "other:1"}})
    operator.finish(controller)
    assert stands(api, "Stalled") == ("True", "RolloutTimedOut")
    operator.now += timedelta(seconds=1)
    edit(api, pods={})
    operator.settle()
    generation = deployment(api)["metadata"]["generation"]
    api.edit("deployments", "team", "small", status=deployment_status(generation, 0, 1, 0, exceeded=gave_up))
    operator.settle()
    assert stands(api, "Stalled")[0] == "False"


# After it


def test_an_outage_after_a_roll_back_is_told() -> None:
    api, operator, controller, _ = rolled_back()
    controller.serves = lambda _: False
    generation = deployment(api)["metadata"]["generation"]
    api.edit("deployments", "team", "small", status=deployment_status(generation, 1, 1, 0))
    operator.finish(controller)
    assert stands(api, "Ready") == ("False", "RolloutTimedOut")
    assert "no server of iteration 1" in condition(api, "Ready")["message"]
    controller.serves = only(served(api))
    operator.finish(controller)
    assert stands(api, "Ready") == ("False", "RolledBack")


def test_a_way_back_that_leads_nowhere_is_told() -> None:
    api, operator, controller = finished(serve=SERVE | {"strategy": "Recreate"})
    good = promoted(api)
    controller.serves = lambda _: False
    edit(api, iterations={"max": 2})
    operator.finish(controller)
    assert served(api) == good
    assert stands(api, "Ready") == ("False", "RolloutTimedOut")
    assert status_of(api)["serving"]["failed"]["reason"] == "RolledBack"


def test_another_deadline_replaces_no_server() -> None:
    api, operator, controller = finished(serve=SERVE)
    before = copy.deepcopy(deployment(api)["spec"])
    edit(api, serve={"progressDeadlineSeconds": 1800})
    operator.finish(controller)
    assert deployment(api)["spec"] == before | {"progressDeadlineSeconds": 1800}
