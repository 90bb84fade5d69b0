"""Serving on the fake API: what is applied, when, and what happens when others meddle."""

import copy
from datetime import timedelta

import pytest
from ippo_operator.api.reasons import Reason
from ippo_trainer.contract.spec import Decision, StageResult, StageSpec

from tests.kit.fake_api import FakeApi, Object, answer
from tests.kit.planner_world import good_result
from tests.kit.toy_cluster import (
    ToyController,
    ToyOperator,
    attempts,
    condition,
    deployment_status,
    edit,
    run_manifest,
    stands,
    status_of,
    the_run,
)

from .served_runs import begin_serving, deployment, finished, only, promoted, rolling, served, writes


def test_the_promoted_policy_is_served_and_the_run_waits_for_its_servers() -> None:
    api, operator, controller = begin_serving(iterations={"max": 2})
    seen = []
    api.on_change = lambda kind, item: seen.append((kind, served(api))) if item["kind"] == "Deployment" else None
    operator.finish(controller)
    assert stands(api, "Ready") == stands(api, "Succeeded") == ("True", "Completed")
    assert served(api) == promoted(api)
    order = list(dict.fromkeys(digest for _, digest in seen))
    assert order == [promoted(api, number) for number in range(3)]
    serving = status_of(api)["serving"]
    assert serving["active"] == serving["target"]
    assert "waitingSince" not in serving
    assert "failed" not in serving


def test_a_run_whose_servers_are_not_ready_is_not_done() -> None:
    api, operator, controller = begin_serving()
    controller.serves = lambda _: False
    operator.rest(controller)
    assert stands(api, "Reconciling") == ("True", "RollingOut")
    assert stands(api, "Ready") == ("False", "RollingOut")
    assert stands(api, "Succeeded") == ("Unknown", "RollingOut")
    assert "1 of 1 iterations" not in condition(api, "Ready")["message"]
    controller.serves = lambda _: True
    operator.finish(controller)
    assert stands(api, "Ready") == ("True", "Completed")


def test_an_idle_run_that_serves_writes_nothing() -> None:
    api, operator, _ = finished()
    done = len(api.calls)
    for _ in range(3):
        operator.reconcile()
    assert writes(api, done) == []
    assert len(api.calls) - done == 3 * 5


def test_a_stage_costs_at_most_six_writes_with_serving() -> None:
    api, operator, controller = begin_serving(iterations={"max": 3})
    operator.finish(controller)
    assert len(writes(api)) <= 6 * len(attempts(api))


@pytest.mark.parametrize("kind", ["deployments", "services"])
def test_what_is_deleted_by_hand_comes_back(kind: str) -> None:
    api, operator, controller = finished()
    api.remove(kind, "team", "small")
    operator.finish(controller)
    assert (kind, "team", "small") in api.objects
    assert stands(api, "Ready") == ("True", "Completed")
    assert stands(api, "Succeeded") == ("True", "Completed")


def test_what_is_edited_by_hand_is_put_back() -> None:
    api, operator, controller = finished()
    spec = copy.deepcopy(deployment(api)["spec"])
    good = copy.deepcopy(spec)
    spec["template"]["spec"]["containers"][0]["image"] = "evil:latest"
    api.edit("deployments", "team", "small", spec=spec)
    operator.finish(controller)
    assert deployment(api)["spec"] == good


def test_servers_scaled_by_somebody_else_stay_so_until_the_spec_changes() -> None:
    api, operator, controller = finished()
    api.edit("deployments", "team", "small", spec=deployment(api)["spec"] | {"replicas": 7})
    done = len(api.calls)
    operator.finish(controller)
    assert not [line for line in writes(api, done) if "deployments" in line]
    edit(api, iterations={"max": 2})
    operator.finish(controller)
    assert (deployment(api)["spec"]["replicas"], served(api)) == (7, promoted(api, 2))
    edit(api, serve={"progressDeadlineSeconds": 600, "replicas": 2})
    operator.finish(controller)
    assert deployment(api)["spec"]["replicas"] == 2
    assert stands(api, "Ready") == ("True", "Completed")


def test_amounts_that_the_server_writes_in_another_way_are_no_difference() -> None:
    pods = {"serve": {"resources": {"requests": {"cpu": "0.5", "memory": "1024Mi"}}, "sharedMemory": "1Gi"}}
    api, operator, _ = finished(pods=pods)
    spec = copy.deepcopy(deployment(api)["spec"])
    for container in [*spec["template"]["spec"]["initContainers"], *spec["template"]["spec"]["containers"]]:
        container["resources"]["requests"] = {"cpu": "500m", "memory": "1Gi"}
        container["livenessProbe"] = container.get("livenessProbe", {}) | {"successThreshold": 1}
    api.edit("deployments", "team", "small", spec=spec)
    operator.settle()
    done = len(api.calls)
    operator.reconcile()
    assert writes(api, done) == []


def test_a_policy_that_never_gets_ready_is_rolled_back_and_not_tried_again() -> None:
    api, operator, controller = finished(iterations={"max": 1})
    good = promoted(api)
    controller.serves = only(good)
    edit(api, iterations={"max": 2})
    operator.finish(controller)
    assert served(api) == good != promoted(api)
    assert stands(api, "Succeeded") == ("True", "Completed")
    assert stands(api, "Ready") == ("False", "RolledBack")
    assert stands(api, "Stalled") == ("True", "RolledBack")
    assert stands(api, "Reconciling")[0] == "False"
    assert "600 s" in condition(api, "Ready")["message"]
    assert status_of(api)["serving"]["failed"]["digest"] == promoted(api)
    done = len(api.calls)
    operator.now += timedelta(days=1)
    operator.finish(controller)
    assert not [line for line in writes(api, done) if not line.startswith("DELETE")]  # Jobs that are cleaned up
    controller.serves = lambda _: True
    edit(api, pods={"serve": {"env": [{"name": "A", "value": "1"}]}})
    operator.finish(controller)
    assert served(api) == promoted(api)
    assert stands(api, "Ready") == ("True", "Completed")
    assert stands(api, "Stalled")[0] == "False"


def test_bad_settings_are_rolled_back_to_the_old_ones() -> None:
    api, operator, controller = finished()
    before = copy.deepcopy(deployment(api)["spec"]["template"])
    controller.serves = lambda template: template["spec"]["containers"][0]["image"] != "broken:1"
    edit(api, pods={"serve": {"image": "broken:1"}})
    operator.finish(controller)
    assert deployment(api)["spec"]["template"] == before
    assert stands(api, "Stalled") == ("True", "RolledBack")
    api.remove("deployments", "team", "small")  # and with it the only trace of the old settings
    operator.finish(controller)
    assert deployment(api)["spec"]["template"]["spec"]["containers"][0]["image"] == "broken:1"
    assert stands(api, "Ready")[0] == "False"
    edit(api, pods={})
    operator.finish(controller)
    assert stands(api, "Ready") == ("True", "Completed")


def test_hold_leaves_the_servers_for_a_look_and_takes_them_when_they_get_ready() -> None:
    serve = {"serve": {"progressDeadlineSeconds": 600, "onFailure": "Hold"}}
    api, operator, controller = finished(**serve)
    controller.serves = only(promoted(api))
    edit(api, iterations={"max": 2})
    operator.finish(controller)
    assert served(api) == promoted(api)
    assert stands(api, "Stalled") == ("True", "RolloutTimedOut")
    controller.serves = lambda _: True
    operator.finish(controller)
    assert stands(api, "Ready") == ("True", "Completed")


def test_a_first_policy_that_never_gets_ready_has_nothing_to_go_back_to() -> None:
    api, operator, controller = begin_serving(iterations={"max": 1})
    controller.serves = lambda _: False
    controller.ending = rejected
    operator.finish(controller)
    assert stands(api, "Stalled") == ("True", "RolloutTimedOut")
    assert stands(api, "Succeeded") == ("True", "Completed")
    assert "nothing to go back to" in condition(api, "Ready")["message"]


def rejected(spec: StageSpec) -> StageResult:
    worse = {"decision": Decision(outcome="Reject", reason="worse")} if spec.stage == "evaluate" else {}
    return good_result(spec, **worse)


def test_the_deployment_controller_knows_first_that_a_roll_out_failed() -> None:
    api, operator, _, good = rolling()
    generation = deployment(api)["metadata"]["generation"]
    stale = deployment_status(generation - 1, updated=1, total=2, available=1, exceeded=operator.now.isoformat())
    api.edit("deployments", "team", "small", status=stale)
    operator.settle()
    assert stands(api, "Reconciling") == ("True", "RollingOut")  # what it says is about the roll-out before
    api.edit("deployments", "team", "small", status=stale | {"observedGeneration": generation})
    operator.settle()
    assert served(api) == good
    assert stands(api, "Stalled") == ("True", "RolledBack")


def test_a_roll_out_does_not_hold_up_the_next_iteration_and_its_failure_shows_at_once() -> None:
    api, operator, controller = begin_serving(iterations={"max": 2})
    controller.serves = only("")
    ended = []

    def slow(spec: StageSpec) -> StageResult:
        if spec.iteration == 2:
            operator.now += timedelta(seconds=200)
            ended.append((spec.stage, stands(api, "Ready")))
        return good_result(spec)

    controller.ending = slow
    operator.finish(controller)
    assert ended[-1][1] == ("False", "RolloutTimedOut")
    assert stands(api, "Succeeded") == ("True", "Completed")
    assert [request.path for request in api.calls if request.method == "PATCH"]


def test_serving_goes_on_while_a_run_is_suspended_or_stalled() -> None:
    api, operator, controller = begin_serving(iterations={"max": 2}, retries={"crashes": 0})
    controller.ending = lambda spec: good_result(spec) if spec.iteration < 2 else (1, "bug")
    operator.finish(controller)
    assert stands(api, "Stalled") == ("True", "BudgetExhausted")
    api.remove("deployments", "team", "small")
    operator.finish(controller)
    assert served(api) == promoted(api, 1)
    edit(api, suspend=True)
    api.remove("deployments", "team", "small")
    operator.finish(controller)
    assert served(api) == promoted(api, 1)


def test_serving_may_come_later_and_go_again() -> None:
    api = FakeApi()
    api.put("iterativepporuns", run_manifest())
    operator, controller = ToyOperator(api), ToyController(api)
    operator.finish(controller)
    assert not api.all("deployments")
    edit(api, serve={})
    operator.finish(controller)
    assert served(api) == promoted(api)
    spec = {key: value for key, value in the_run(api)["spec"].items() if key != "serve"}
    api.edit("iterativepporuns", "team", "small", spec=spec)
    operator.finish(controller)
    assert api.all("deployments") == api.all("services") == []
    assert "serving" not in status_of(api)
    assert stands(api, "Ready") == ("True", "Completed")


@pytest.mark.parametrize("kind", ["Deployment", "Service"])
def test_a_strangers_object_is_never_touched_and_told_of(kind: str) -> None:
    api, operator, controller = begin_serving()
    plural = f"{kind.lower()}s"
    theirs = {"kind": kind, "metadata": {"name": "small", "namespace": "team"}, "spec": {"mine": True, "replicas": 1}}
    api.put(plural, theirs)
    operator.patience = 30
    operator.finish(controller)
    assert api.objects[plural, "team", "small"]["spec"] == theirs["spec"]
    assert stands(api, "Stalled") == ("True", "ChildConflict")
    assert f"{kind} team/small" in condition(api, "Stalled")["message"]
    assert operator.settle().requeue_after == 60
    edit(api, serve=None)
    operator.finish(controller)
    assert (plural, "team", "small") in api.objects
    edit(api, serve={})
    api.remove(plural, "team", "small")
    operator.finish(controller)
    assert stands(api, "Ready") == ("True", "Completed")


def test_without_an_image_of_servers_the_run_says_so() -> None:
    api, operator, controller = begin_serving()
    operator.reconciler._platform = operator.reconciler._platform.__class__(image="stages:test")
    operator.finish(controller)
    assert stands(api, "Stalled") == ("True", "NoServerImage")
    edit(api, serve={"engine": "Transformers"})
    operator.finish(controller)
    assert stands(api, "Ready") == ("True", "Completed")
    [server] = deployment(api)["spec"]["template"]["spec"]["containers"]
    assert server["image"] == "stages:test"
    assert server["command"][-6:] == ["--engine", "Transformers", "--name", "small", "--max-tokens", "16"]


def test_a_deployment_that_the_server_refuses_is_told_once_and_heals() -> None:
    api, operator, controller = begin_serving()
    no = answer(403, "Forbidden", "exceeded quota: team-quota")
    api.before = lambda _n, request: no if request.method == "PATCH" and "deployments" in request.path else None
    for _ in range(60):
        operator.reconcile()
        controller.step()
    assert stands(api, "Stalled") == ("True", "ChildRefused")
    assert "team-quota" in condition(api, "Ready")["message"]
    version = the_run(api)["metadata"]["resourceVersion"]
    assert operator.reconcile().again
    assert the_run(api)["metadata"]["resourceVersion"] == version
    api.before = lambda _n, _r: None
    operator.finish(controller)
    assert stands(api, "Ready") == ("True", "Completed")


def test_a_stage_that_the_server_refuses_does_not_hold_up_the_servers() -> None:
    api, operator, controller = begin_serving()
    no = answer(403, "Forbidden", "exceeded quota: team-quota")
    refused = lambda request: request.method == "POST" and "/jobs" in request.path  # noqa: E731
    api.before = lambda _n, request: no if refused(request) and status_of(api).get("stage") == "collect" else None
    for _ in range(20):
        operator.reconcile()
        controller.step()
    assert stands(api, "Reconciling") == ("True", "ChildRefused")
    assert served(api) == promoted(api, 0)
    assert "waitingSince" not in status_of(api)["serving"]


def test_a_deployment_that_is_scaled_stays_ready() -> None:
    api, operator, _ = finished()
    api.edit("deployments", "team", "small", spec=deployment(api)["spec"] | {"replicas": 9})
    operator.settle()
    assert stands(api, "Ready") == ("True", "Completed")


def test_a_status_that_cannot_be_written_keeps_the_deployment_as_it_is() -> None:
    api, operator, controller = finished()
    before = copy.deepcopy(deployment(api)["spec"])
    edit(api, pods={"serve": {"image": "servers:2"}})
    conflict = answer(409, "Conflict")
    api.before = lambda _n, request: conflict if request.method == "PUT" else None
    assert operator.reconcile().again
    assert deployment(api)["spec"] == before
    api.before = lambda _n, _r: None
    operator.finish(controller)
    assert deployment(api)["spec"]["template"]["spec"]["containers"][0]["image"] == "servers:2"


def test_no_servers_are_wanted_and_none_are_waited_for() -> None:
    api, _, _ = finished(serve={"replicas": 0})
    assert deployment(api)["spec"]["replicas"] == 0
    assert status_of(api)["serving"]["active"]["digest"] == promoted(api)


def test_servers_that_were_ready_and_are_lost_show_and_heal() -> None:
    api, operator, controller = finished(serve={"progressDeadlineSeconds": 600, "replicas": 2})
    controller.serves = lambda _: False
    generation = deployment(api)["metadata"]["generation"]
    some = deployment_status(generation, updated=2, total=2, available=1)
    api.edit("deployments", "team", "small", status=some)
    operator.settle()
    assert stands(api, "Ready") == ("True", "Completed")
    api.edit("deployments", "team", "small", status=some | {"availableReplicas": 0})
    operator.settle()
    assert stands(api, "Reconciling") == ("True", "RollingOut")
    assert stands(api, "Succeeded") == ("True", "Completed")
    operator.finish(controller)
    assert stands(api, "Stalled") == ("True", "RolloutTimedOut")
    controller.serves = lambda _: True
    operator.finish(controller)
    assert stands(api, "Ready") == ("True", "Completed")


NO_IMAGE = {"name": "server", "image": "x:1", "state": {"waiting": {"reason": "ImagePullBackOff"}}}
NO_NODE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
ALTERED = {
    "name": "fetch",
    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    "lastState": {"terminated": {"exitCode": 65, "message": "model.safetensors was altered"}},
}
CAUSES: list[tuple[Object, Reason, str]] = [
    ({"containerStatuses": [NO_IMAGE]}, Reason.IMAGE_PULL_FAILED, "x:1 cannot be pulled"),
    ({"conditions": [NO_NODE]}, Reason.UNSCHEDULABLE, "0/3 nodes"),
    ({"initContainerStatuses": [ALTERED]}, Reason.SERVER_FAILED, "model.safetensors was altered"),
]


@pytest.mark.parametrize(("status", "reason", "text"), CAUSES, ids=lambda value: getattr(value, "value", None))
def test_the_cause_is_told(status: Object, reason: Reason, text: str) -> None:
    api, operator, controller = begin_serving()
    controller.serves = lambda _: False
    operator.rest(controller)
    annotations = deployment(api)["spec"]["template"]["metadata"]["annotations"]
    [newest] = [s for s in api.all("replicasets") if s["spec"]["template"]["metadata"]["annotations"] == annotations]
    metadata = newest["metadata"]
    owner = {"kind": "ReplicaSet", "name": metadata["name"], "uid": metadata["uid"], "controller": True}
    pod = {
        "kind": "Pod",
        "metadata": {
            "name": "small-0",
            "namespace": "team",
            "labels": metadata["labels"],
            "annotations": annotations,
            "ownerReferences": [owner],
        },
        "status": {"phase": "Pending"} | status,
    }
    api.put("pods", pod)
    operator.settle()
    assert status_of(api)["serving"]["waiting"]["reason"] == reason
    assert text in condition(api, "Ready")["message"]
    operator.finish(controller)
    assert stands(api, "Stalled") == ("True", "RolloutTimedOut")
    assert text in condition(api, "Ready")["message"]
