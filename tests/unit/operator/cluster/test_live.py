"""Live runs on the fake API: the gateway, what it is asked and told, and a candidate's servers of its own."""

import copy
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from ippo_operator.cluster.live import LOOK_AGAIN, ROUTES_LAG
from ippo_operator.manifests import identity
from ippo_trainer.contract.live import REPORT_MOST

from tests.kit.fake_api import FakeApi, Object, answer
from tests.kit.toy_cluster import (
    ToyController,
    ToyOperator,
    attempts,
    begin,
    condition,
    edit,
    stands,
    status_of,
    the_run,
)
from tests.kit.toy_gateway import LIVE, ToyGateway

from .served_runs import promoted, writes

GATEWAY = [("configmaps", "small-gateway"), ("deployments", "small-gateway"), ("services", "small-gateway")]
CANDIDATE = [("deployments", "small-candidate"), ("services", "small-candidate")]
World = tuple[FakeApi, ToyOperator, ToyController, ToyGateway]


def begin_live(**spec: Any) -> World:
    """A run that is going to talk to customers."""
    api, operator, controller = begin(**LIVE | spec)
    operator.patience = LOOK_AGAIN - 1
    return api, operator, controller, ToyGateway(api=api)


def there(api: FakeApi, objects: list[tuple[str, str]]) -> list[bool]:
    return [(kind, "team", name) in api.objects for kind, name in objects]


def only_active(template: Object) -> bool:
    """No server of a candidate ever gets ready."""
    return bool(template["metadata"]["labels"][identity.COMPONENT] != "candidate")


def waiting(**spec: Any) -> World:
    """A run that waits for customers."""
    api, operator, controller, gateway = begin_live(**spec)
    gateway.enough = False
    rest(operator, controller)
    assert stands(api, "Reconciling") == ("True", "WaitingForConversations")
    return api, operator, controller, gateway


def under_test(**spec: Any) -> World:
    """A run whose candidate is in its A/B test."""
    api, operator, controller, gateway = begin_live(**spec)
    gateway.outcome = None
    rest(operator, controller)
    assert stands(api, "Promoted") == ("Unknown", "CanaryRunning")
    return api, operator, controller, gateway


def rest(operator: ToyOperator, controller: ToyController, seconds: float = 60) -> None:
    """Goes on for so long after the last change by anybody but a clock."""
    for _ in range(100):
        operator.rest(controller)
        before = len(operator.api.created)
        operator.now += timedelta(seconds=seconds / 3)
        for _ in range(3):
            operator.settle()
            operator.now += timedelta(seconds=seconds / 3)
        if len(operator.api.created) == before and not controller.step():
            return
    raise AssertionError("the run does not come to rest")


def test_a_run_waits_without_a_pod_and_goes_on_once_there_are_enough() -> None:
    api, operator, controller, gateway = waiting()
    assert attempts(api) == controller.ran
    assert [spec.split("-")[2] for spec in controller.ran] == ["warm"]
    assert all(there(api, GATEWAY))
    assert not any(there(api, CANDIDATE))
    assert api.all("pods") == [] or all(pod["status"]["phase"] == "Succeeded" for pod in api.all("pods"))
    gateway.enough = True
    operator.finish(controller)
    assert stands(api, "Succeeded") == ("True", "Completed")


def test_a_candidate_is_tested_promoted_and_its_servers_go_once_nobody_asks_them() -> None:
    api, operator, controller, gateway = under_test()
    before, routes = promoted(api), gateway.routes()
    assert routes.active.digest == before
    assert routes.canary is not None
    assert routes.canary.route.url == "http://small-candidate.team.svc:8000"
    template = api.objects["deployments", "team", "small-candidate"]["spec"]["template"]
    assert template["metadata"]["annotations"][identity.POLICY_DIGEST] == routes.canary.route.digest != before
    assert all(there(api, CANDIDATE))
    gateway.outcome = "Promote"
    operator.settle()
    assert promoted(api) == routes.canary.route.digest == gateway.routes().active.digest
    assert gateway.routes().canary is None
    ended = operator.now
    while any(there(api, CANDIDATE)):
        assert operator.now - ended < timedelta(seconds=2 * ROUTES_LAG)
        wait = operator.settle().requeue_after
        assert wait is not None
        operator.now += timedelta(seconds=wait)
    assert operator.now - ended >= timedelta(seconds=ROUTES_LAG)
    operator.finish(controller)
    assert stands(api, "Ready") == ("True", "Completed")
    assert all(there(api, GATEWAY))


def test_nobody_asks_a_candidate_before_its_servers_are_ready() -> None:
    api, operator, controller, gateway = begin_live()
    controller.serves = only_active
    gateway.outcome = None
    rest(operator, controller)
    assert all(there(api, CANDIDATE))
    assert gateway.routes().canary is None
    controller.serves = lambda _: True
    rest(operator, controller)
    assert gateway.routes().canary is not None


def test_a_candidate_whose_servers_fail_is_not_promoted() -> None:
    api, operator, controller, _ = begin_live()
    controller.serves = only_active
    rest(operator, controller)
    before = promoted(api)
    candidate = api.objects["deployments", "team", "small-candidate"]
    gave_up = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    gave_up["lastUpdateTime"] = operator.now.isoformat()
    status = candidate["status"] | {"conditions": [gave_up]}
    api.edit("deployments", "team", "small-candidate", status=status)
    operator.finish(controller)
    assert stands(api, "Promoted") == ("False", "CanaryInconclusive")
    assert "progressDeadlineSeconds, 600 s" in condition(api, "Promoted")["message"]
    assert promoted(api) == before
    assert not any(there(api, CANDIDATE))


def test_the_gateway_is_asked_only_where_something_waits_for_it() -> None:
    api, operator, controller, gateway = begin_live()
    operator.finish(controller)
    assert stands(api, "Succeeded") == ("True", "Completed")
    passes = sum(request.method == "GET" and request.path.endswith("/small") for request in api.calls)
    asked = gateway.asked
    assert 0 < asked < passes / 4
    operator.now += timedelta(hours=1)
    operator.reconcile()
    assert gateway.asked == asked


def test_an_idle_live_run_writes_nothing() -> None:
    api, operator, controller, _ = begin_live()
    operator.finish(controller)
    done = len(api.calls)
    for _ in range(3):
        assert operator.reconcile().requeue_after == LOOK_AGAIN
    assert writes(api, done) == []
    assert len(api.calls) - done == 3 * 11


def test_a_run_that_waits_for_hours_writes_nothing_new() -> None:
    api, operator, _, _ = waiting()
    done = len(api.calls)
    for _ in range(180):
        operator.now += timedelta(seconds=60)
        operator.reconcile()
    assert not [line for line in writes(api, done) if not line.startswith("DELETE")]  # the warm start is cleaned up


@pytest.mark.parametrize(("kind", "name"), GATEWAY + CANDIDATE)
def test_what_is_deleted_by_hand_comes_back(kind: str, name: str) -> None:
    api, operator, controller, _ = under_test()
    api.remove(kind, "team", name)
    rest(operator, controller)
    assert (kind, "team", name) in api.objects


def test_routes_that_somebody_edits_are_put_back_at_the_next_look() -> None:
    api, operator, _, _ = under_test()
    good = copy.deepcopy(api.objects["configmaps", "team", "small-gateway"]["data"])
    evil = {"routes.json": good["routes.json"].replace("small-candidate", "evil")}
    api.edit("configmaps", "team", "small-gateway", data=evil)
    operator.settle()
    assert api.objects["configmaps", "team", "small-gateway"]["data"] == good


@pytest.mark.parametrize(("kind", "name"), GATEWAY + CANDIDATE)
def test_a_strangers_object_is_never_touched_and_told_of(kind: str, name: str) -> None:
    api, operator, controller, gateway = begin_live()
    gateway.outcome = None
    title = {"configmaps": "ConfigMap", "deployments": "Deployment", "services": "Service"}[kind]
    theirs = {"kind": title, "metadata": {"name": name, "namespace": "team"}, "spec": {"mine": True, "replicas": 1}}
    theirs["data"] = {"routes.json": "{}"}
    api.put(kind, theirs)
    gateway.answer = lambda _service, _path: b""  # type: ignore[method-assign]
    api.behind = lambda _service, _path: None
    rest(operator, controller)
    assert api.objects[kind, "team", name]["spec"] == theirs["spec"]
    trouble = status_of(api)["live"]["trouble"]
    assert (trouble["reason"], f"{title} team/{name} exists" in trouble["message"]) == ("ChildConflict", True)
    assert all(there(api, [own for own in GATEWAY if own != (kind, name)]))
    api.remove(kind, "team", name)
    ToyGateway(api=api)
    operator.finish(controller)
    assert "trouble" not in status_of(api)["live"]
    assert stands(api, "Succeeded") == ("True", "Completed")


def test_gateways_scaled_by_somebody_else_stay_so_until_the_spec_changes() -> None:
    api, operator, controller, _ = begin_live()
    operator.finish(controller)
    deployment = api.objects["deployments", "team", "small-gateway"]
    api.edit("deployments", "team", "small-gateway", spec=deployment["spec"] | {"replicas": 7})
    operator.finish(controller)
    assert api.objects["deployments", "team", "small-gateway"]["spec"]["replicas"] == 7
    edit(api, gateway={"replicas": 2})
    operator.finish(controller)
    assert api.objects["deployments", "team", "small-gateway"]["spec"]["replicas"] == 2


def test_what_the_server_refuses_is_told_once_and_heals() -> None:
    api, operator, controller, _ = begin_live()
    no = answer(403, "Forbidden", "exceeded quota: team-quota")
    api.before = lambda _n, request: no if request.method == "PATCH" and "small-gateway" in request.path else None
    for _ in range(60):
        operator.reconcile()
        controller.step()
    assert status_of(api)["live"]["trouble"]["reason"] == "ChildRefused"
    assert "team-quota" in condition(api, "Ready")["message"]
    version = the_run(api)["metadata"]["resourceVersion"]
    assert operator.reconcile().again
    assert the_run(api)["metadata"]["resourceVersion"] == version
    api.before = lambda _n, _r: None
    operator.finish(controller)
    assert stands(api, "Succeeded") == ("True", "Completed")


def test_a_run_that_is_deleted_while_somebody_keeps_it_loses_gateway_and_candidate() -> None:
    api, operator, _, _ = under_test()
    metadata = the_run(api)["metadata"] | {"deletionTimestamp": "2026-01-31T13:00:00Z", "finalizers": ["theirs/x"]}
    api.edit("iterativepporuns", "team", "small", metadata=metadata)
    operator.settle()
    assert api.all("deployments") == api.all("services") == []


def test_a_run_that_is_deleted_takes_all_with_it() -> None:
    api, _, _, _ = under_test()
    api.remove("iterativepporuns", "team", "small")
    assert not any(there(api, GATEWAY + CANDIDATE))


def test_gateways_that_do_not_start_say_why() -> None:
    api, operator, _, _ = waiting()
    [newest] = [s for s in api.all("replicasets") if s["metadata"]["labels"][identity.COMPONENT] == "gateway"]
    metadata = newest["metadata"]
    owner = {"kind": "ReplicaSet", "name": metadata["name"], "uid": metadata["uid"], "controller": True}
    pulling = {"name": "gateway", "image": "typo", "state": {"waiting": {"reason": "ErrImagePull"}}}
    pod = {
        "kind": "Pod",
        "metadata": {"name": "g", "namespace": "team", "labels": metadata["labels"], "ownerReferences": [owner]},
        "status": {"phase": "Pending", "containerStatuses": [pulling]},
    }
    api.put("pods", pod)
    status = api.objects["deployments", "team", "small-gateway"]["status"]
    api.edit("deployments", "team", "small-gateway", status=status | {"availableReplicas": 0})
    operator.settle()
    trouble = status_of(api)["live"]["trouble"]
    assert trouble["reason"] == "GatewayUnreachable"
    assert "typo" in trouble["message"]


def test_gateways_that_are_not_ready_for_long_are_told_of() -> None:
    api, operator, _, gateway = waiting()
    status = api.objects["deployments", "team", "small-gateway"]["status"]
    gone = {"type": "Available", "status": "False", "lastTransitionTime": operator.now.isoformat()}
    api.edit("deployments", "team", "small-gateway", status=status | {"availableReplicas": 0, "conditions": [gone]})
    asked = gateway.asked
    operator.settle()
    assert "trouble" not in status_of(api)["live"]  # a node may be drained
    operator.now += timedelta(seconds=180)
    operator.settle()
    assert status_of(api)["live"]["trouble"]["reason"] == "GatewayUnreachable"
    assert gateway.asked == asked


DIGEST = "sha256:" + "a" * 64
ARM = {"digest": DIGEST}
WELL: Object = {"time": 1.0, "active": ARM, "usable": 10**6, "usableOutcomes": 10**6}


def bodies() -> Iterator[tuple[str, bytes]]:
    """What pods with a gateway's labels may answer."""
    yield "nothing", b""
    yield "no JSON", b"<html>\x1b[2J</html>"
    yield "no UTF-8", b"\xff\xfe"
    yield "null", b"null"
    yield "a list", b"[]"
    yield "deep", b"[" * 60_000
    yield "cut off", json.dumps(WELL).encode()[:-1]
    yield "another version", json.dumps(WELL | {"schemaVersion": 2}).encode()
    for name, changes in {
        "no active policy": {"active": None},
        "a negative count": {"usable": -1},
        "a fraction": {"usable": 1.5},
        "a text": {"usable": "1000000"},
        "a huge count": {"usable": 10**30},
        "a time without end": {"time": 1e300},
        "a time before all": {"time": -1.0},
        "a bad digest": {"active": {"digest": "sha256:" + "g" * 64}},
        "a field with a cursor": {"\x1b[31mred": 1},
        "a verdict in other words": {"verdict": {"digest": DIGEST, "since": 0.0, "outcome": "promote"}},
        "a lift of two": {"verdict": {"digest": DIGEST, "since": 0.0, "lift": 2.0}},
        "a long reason": {"verdict": {"digest": DIGEST, "since": 0.0, "reason": "x" * 513}},
        "many personas": {"personas": [{"name": "x"}] * 17},
    }.items():
        yield name, json.dumps(WELL | changes).encode()
    yield "no number", json.dumps(WELL).replace("1.0", "NaN").encode()
    yield "infinity", json.dumps(WELL).replace("1.0", "Infinity").encode()


@pytest.mark.parametrize("body", [body for _, body in bodies()], ids=[name for name, _ in bodies()])
def test_an_answer_that_is_no_report_is_told_in_one_line_and_moves_nothing(body: bytes) -> None:
    api, operator, _, _ = waiting()
    jobs = attempts(api)
    api.behind = lambda _service, _path: body
    operator.settle()
    assert "trouble" not in status_of(api)["live"]  # once is no news
    operator.now += timedelta(seconds=40)
    operator.settle()
    trouble = status_of(api)["live"]["trouble"]
    assert trouble["reason"] == "GatewayUnreachable"
    assert trouble["message"].isprintable()
    assert len(trouble["message"].encode()) < 512
    done = len(api.calls)
    for _ in range(30):
        operator.now += timedelta(seconds=20)
        operator.reconcile()
    assert writes(api, done) == []
    assert attempts(api) == jobs


def test_another_cause_of_the_same_trouble_is_told_now_and_then() -> None:
    api, operator, _, _ = waiting()
    bodies = [json.dumps(WELL | {"active": None}).encode(), b"{"]
    api.behind = lambda _service, _path: bodies[0]
    operator.settle()
    operator.now += timedelta(seconds=40)
    operator.settle()
    assert "(active)" in status_of(api)["live"]["trouble"]["message"]
    api.behind = lambda _service, _path: bodies[1]
    operator.now += timedelta(seconds=20)
    operator.settle()
    assert "(JSON)" in status_of(api)["live"]["trouble"]["message"]
    done = len(api.calls)
    for number in range(12):  # four minutes of now this, now that
        api.behind = lambda _service, _path, body=bodies[number % 2]: body
        operator.now += timedelta(seconds=20)
        operator.reconcile()
    assert writes(api, done) == []


def test_a_report_of_another_policy_moves_nothing() -> None:
    api, operator, _, _ = waiting()
    jobs = attempts(api)
    api.behind = lambda _service, _path: json.dumps(WELL).encode()
    operator.settle()
    assert attempts(api) == jobs
    assert "trouble" not in status_of(api)["live"]
    assert status_of(api)["live"]["conversations"] == 0


def test_the_reader_takes_as_much_as_a_report_may_have() -> None:
    api, operator, _, _ = waiting()
    operator.reconcile()
    [asked] = {(call.most, call.foreign) for call in api.calls if "/proxy/" in call.path}
    assert asked == (REPORT_MOST, True)
