"""The Deployment and the Service are kept, reached and not fought over, on the fake API."""

import copy
from datetime import timedelta
from typing import Any

import pytest

from tests.kit.fake_api import FakeApi, Object, answer
from tests.kit.toy_cluster import ToyOperator, condition, endpoint_slice, stands, status_of

from .served_runs import begin_serving, deployment, finished, writes

Path = tuple[str, ...]


def service(api: FakeApi) -> Object:
    return api.objects["services", "team", "small"]


def write(api: FakeApi, plural: str, manager: str, path: Path, value: Any) -> None:
    """As somebody who sets one field below spec with `kubectl edit`."""
    found = copy.deepcopy(api.objects[plural, "team", "small"])
    place, fields = found["spec"], {f"f:{path[-1]}": {}}
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    for part in reversed(path[:-1]):
        fields = {f"f:{part}": fields}
    entry = {"manager": manager, "operation": "Update", "fieldsV1": {"f:spec": fields}}
    ours = [entry for entry in found["metadata"]["managedFields"] if entry["manager"] == "ippo-operator"]
    metadata = found["metadata"] | {"managedFields": [*ours, entry]}
    api.edit(plural, "team", "small", spec=found["spec"], metadata=metadata)


def events(api: FakeApi) -> list[str]:
    return [event["note"] for event in api.all("events") if event["reason"] == "PutBack"]


@pytest.mark.parametrize(
    ("plural", "path", "value"),
    [
        ("services", ("sessionAffinity",), "ClientIP"),
        ("services", ("externalIPs",), ["192.0.2.1"]),
        ("deployments", ("paused",), True),
        ("deployments", ("template", "spec", "hostNetwork"), True),
        ("deployments", ("template", "spec", "nodeSelector"), {"a": "b"}),
    ],
)
def test_what_somebody_writes_into_an_object_goes_again_and_is_told(plural: str, path: Path, value: Any) -> None:
    api, operator, controller = finished()
    before = copy.deepcopy(api.objects[plural, "team", "small"]["spec"])
    write(api, plural, "kubectl-edit", path, value)
    operator.finish(controller)
    assert api.objects[plural, "team", "small"]["spec"] == before
    assert stands(api, "Ready") == ("True", "Completed")
    [told] = events(api)
    assert "kubectl-edit" in told
    assert ".".join(path) in told


def test_what_an_autoscaler_and_a_restart_write_stays() -> None:
    api, operator, _ = finished()
    write(api, "deployments", "hpa", ("replicas",), 3)
    at = ("template", "metadata", "annotations", "kubectl.kubernetes.io/restartedAt")
    write(api, "deployments", "kubectl-rollout", at, "now")
    done = len(api.calls)
    operator.reconcile()
    assert writes(api, done) == []


def test_an_object_that_is_fought_over_is_put_back_less_and_less_often() -> None:
    api, operator, _ = finished()
    done, began = len(api.calls), operator.now
    while operator.now < began + timedelta(hours=1):
        write(api, "services", "other-operator", ("sessionAffinity",), "ClientIP")
        wait = operator.reconcile().requeue_after or 0.0
        operator.now += timedelta(seconds=max(1.0, min(wait, 30.0)))
    fought = [line for line in writes(api, done) if "services" in line]
    assert 10 < len(fought) < 30
    operator.now += timedelta(hours=1)
    operator.reconcile()
    assert "sessionAffinity" not in service(api)["spec"]


def test_a_new_policy_does_not_wait_for_the_end_of_a_fight() -> None:
    api, operator, _ = finished()
    for _ in range(8):
        write(api, "deployments", "other-operator", ("paused",), True)
        operator.reconcile()
    run = api.objects["iterativepporuns", "team", "small"]
    api.edit("iterativepporuns", "team", "small", spec=run["spec"] | {"pods": {"serve": {"image": "servers:2"}}})
    operator.reconcile()
    assert deployment(api)["spec"]["template"]["spec"]["containers"][0]["image"] == "servers:2"


def test_a_service_that_reaches_nobody_is_not_ready_and_no_policy_is_blamed() -> None:
    api, operator, controller = begin_serving()
    controller.connects = False
    operator.rest(controller)
    assert stands(api, "Ready") == ("False", "RollingOut")
    assert operator.settle().requeue_after == 2.0
    operator.now += timedelta(seconds=30)
    assert operator.settle().requeue_after < 60
    assert "Service small does not reach the server" in condition(api, "Ready")["message"]
    assert stands(api, "Stalled")[0] == "False"
    operator.now += timedelta(seconds=600)
    operator.settle()
    assert stands(api, "Stalled") == ("True", "RolloutTimedOut")
    assert "failed" not in status_of(api)["serving"], "nothing is rolled back"
    controller.connects = True
    operator.finish(controller)
    assert stands(api, "Ready") == ("True", "Completed")


def test_endpoints_that_come_a_moment_later_are_no_news() -> None:
    api, operator, controller = begin_serving()
    operator.finish(controller)
    assert not [event for event in api.all("events") if event["reason"] == "NotReached"]


@pytest.mark.parametrize("whose", ["nobody's", "another's", "not ready"])
def test_only_ready_endpoints_of_the_very_service_count(whose: str) -> None:
    api, operator, controller = finished()
    controller.connects = False
    [found] = api.all("endpointslices")
    if whose == "nobody's":
        found["metadata"]["ownerReferences"] = []
    elif whose == "another's":
        found["metadata"]["ownerReferences"][0]["uid"] = "x"
    else:
        found["endpoints"][0]["conditions"] = {"ready": False, "serving": True, "terminating": True}
    operator.settle()
    assert stands(api, "Ready") == ("False", "RollingOut")
    found |= {key: value for key, value in endpoint_slice(service(api), 1).items() if key != "metadata"}
    found["metadata"] |= endpoint_slice(service(api), 1)["metadata"]
    found["endpoints"][0]["conditions"] = {}  # unknown counts as ready
    operator.settle()
    assert stands(api, "Ready") == ("True", "Completed")


def test_without_the_right_to_look_the_run_says_which_one() -> None:
    api, operator, controller = finished()
    no = answer(403, "Forbidden", 'cannot list resource "endpointslices"')
    api.before = lambda _n, request: no if "endpointslices" in request.path else None
    operator.settle()
    operator.now += timedelta(seconds=20)
    operator.settle()
    assert stands(api, "Ready")[0] == "False"
    assert 'cannot list resource "endpointslices"' in condition(api, "Ready")["message"]
    api.before = lambda _n, _r: None
    operator.finish(controller)
    assert stands(api, "Ready") == ("True", "Completed")


def test_an_object_that_is_refused_does_not_hold_up_the_other() -> None:
    api, operator, controller = begin_serving()
    no = answer(403, "Forbidden", "exceeded quota: no more services")
    api.before = lambda _n, request: no if request.method == "PATCH" and "deployments" in request.path else None
    for _ in range(30):
        operator.reconcile()
        controller.step()
    assert ("services", "team", "small") in api.objects
    assert stands(api, "Stalled") == ("True", "ChildRefused")


def test_servers_that_were_tampered_with_are_not_what_a_roll_back_brings_back() -> None:
    api, operator, controller = finished()
    before = copy.deepcopy(deployment(api)["spec"]["template"])
    operator.now += timedelta(seconds=5)
    spec = copy.deepcopy(deployment(api)["spec"])
    spec["template"]["spec"]["containers"][0]["args"] = ["evil"]
    api.edit("deployments", "team", "small", spec=spec)
    controller.step()  # the Deployment controller makes a ReplicaSet of it
    api.edit("deployments", "team", "small", spec=spec | {"template": before})
    operator.finish(controller)
    controller.serves = lambda template: template["spec"]["containers"][0]["image"] != "broken:1"
    run = api.objects["iterativepporuns", "team", "small"]
    api.edit("iterativepporuns", "team", "small", spec=run["spec"] | {"pods": {"serve": {"image": "broken:1"}}})
    operator.finish(controller)
    assert stands(api, "Stalled") == ("True", "RolledBack")
    assert deployment(api)["spec"]["template"] == before


def test_a_restarted_operator_measures_a_deadline_anew() -> None:
    api, operator, controller = begin_serving()
    controller.serves = lambda _: False
    operator.rest(controller)
    operator.now += timedelta(seconds=500)
    other = ToyOperator(api)
    other.now = operator.now + timedelta(seconds=200)
    other.settle()
    assert stands(api, "Stalled")[0] == "False"
    other.now += timedelta(seconds=600)
    other.settle()
    assert stands(api, "Stalled") == ("True", "RolloutTimedOut")
