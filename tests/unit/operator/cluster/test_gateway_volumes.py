"""Gateways with volumes on the fake API: no volume goes while events are on it, and none stays for good."""

import functools
import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from ippo_operator.cluster.live import LOOK_AGAIN
from ippo_operator.manifests import identity

from tests.kit.fake_api import FakeApi, Object, answer, copied
from tests.kit.toy_cluster import (
    ToyController,
    ToyOperator,
    begin,
    condition,
    edit,
    newest,
    stands,
    status_of,
    the_run,
)
from tests.kit.toy_gateway import LIVE, ToyGateway
from tests.kit.toy_volumes import CLAIMS, is_put

from .served_runs import writes

VOLUME: dict[str, Any] = {"storage": "2Gi"}
World = tuple[FakeApi, ToyOperator, ToyController]


def begin_with(**gateway: Any) -> World:
    """A run with customers at its end, whose gateways go on."""
    end, now = ended(json.dumps(gateway))
    api = FakeApi(copied(end.objects))
    api.skip_versions(newest(end))
    operator, controller = ToyOperator(api), ToyController(api)
    operator.now, operator.patience = now, LOOK_AGAIN - 1
    ToyGateway(api=api)
    return api, operator, controller


@functools.cache
def ended(gateway: str) -> tuple[FakeApi, datetime]:
    """The world at the end of a run with that section of its spec."""
    api, operator, controller = begin(**LIVE, gateway=json.loads(gateway))
    operator.patience = LOOK_AGAIN - 1
    ToyGateway(api=api)
    operator.finish(controller)
    assert stands(api, "Succeeded") == ("True", "Completed")
    assert controller.volumes.lost == []
    return api, operator.now


def go_on(world: World, **gateway: Any) -> None:
    """With other settings of gateways, until nothing changes."""
    api, operator, controller = world
    edit(api, gateway=gateway)
    operator.finish(controller)


def kinds(api: FakeApi) -> list[str]:
    """Of gateways' workloads."""
    there = [(kind, "team", "small-gateway") in api.objects for kind in ("deployments", "statefulsets")]
    return [kind for kind, is_there in zip(("deployments", "statefulsets"), there, strict=True) if is_there]


def names(api: FakeApi, kind: str) -> list[str]:
    return [item["metadata"]["name"] for item in api.all(kind)]


def claims(*ordinals: int) -> list[str]:
    return [f"ippo-journal-small-gateway-{number}" for number in ordinals]


def puts(api: FakeApi) -> list[Object]:
    return [job for job in api.all("jobs") if is_put(job)]


def test_a_run_with_volumes_comes_to_its_end_and_then_writes_nothing() -> None:
    api, operator, controller = begin_with(journalVolume=VOLUME, replicas=2)
    assert kinds(api) == ["statefulsets"]
    assert names(api, CLAIMS) == claims(0, 1)
    operator.reconcile()  # a new process reads each Job once
    done = len(api.calls)
    for _ in range(3):
        assert operator.reconcile().requeue_after == LOOK_AGAIN
    assert writes(api, done) == []
    assert len(api.calls) - done == 3 * 13
    assert puts(api) == []
    assert controller.volumes.lost == []


def test_without_volumes_no_claim_is_looked_for() -> None:
    api, operator, _ = begin_with()
    operator.reconcile()
    assert not [call for call in api.calls if CLAIMS in call.path]


def test_fewer_gateways_leave_no_event_and_no_volume() -> None:
    world = api, _, controller = begin_with(journalVolume=VOLUME, replicas=3)
    go_on(world, journalVolume=VOLUME, replicas=1)
    assert names(api, CLAIMS) == claims(0)
    assert puts(api) == []
    assert controller.volumes.lost == []


def test_a_volume_waits_for_the_bucket_however_long_it_is_away() -> None:
    world = api, operator, controller = begin_with(journalVolume=VOLUME, replicas=3)
    controller.volumes.bucket = False
    go_on(world, journalVolume=VOLUME, replicas=1)
    assert names(api, CLAIMS) == claims(0, 1, 2)
    assert ("pods", "team", "small-gateway-1") not in api.objects
    assert [job["metadata"]["name"] for job in puts(api)] == ["small-gateway-1-put", "small-gateway-2-put"]
    for _ in range(5):
        operator.now += timedelta(hours=1)
        operator.settle()
    assert names(api, CLAIMS) == claims(0, 1, 2)
    controller.volumes.bucket = True
    operator.finish(controller)
    assert names(api, CLAIMS) == claims(0)
    assert controller.volumes.lost == []


def test_a_job_is_of_the_claim_alone() -> None:
    world = api, _, controller = begin_with(journalVolume=VOLUME, replicas=2)
    controller.volumes.bucket = False
    go_on(world, journalVolume=VOLUME, replicas=1)
    [job], claim = puts(api), api.objects[CLAIMS, "team", claims(1)[0]]
    assert [owner["uid"] for owner in job["metadata"]["ownerReferences"]] == [claim["metadata"]["uid"]]
    assert [owner["uid"] for owner in claim["metadata"]["ownerReferences"]] == [the_run(api)["metadata"]["uid"]]


def test_a_gateway_that_comes_again_takes_its_volume_back() -> None:
    world = api, _, controller = begin_with(journalVolume=VOLUME, replicas=2)
    controller.volumes.bucket = False
    go_on(world, journalVolume=VOLUME, replicas=1)
    before = api.objects[CLAIMS, "team", claims(1)[0]]["metadata"]["uid"]
    assert puts(api)
    go_on(world, journalVolume=VOLUME, replicas=2)
    assert puts(api) == []
    assert api.objects[CLAIMS, "team", claims(1)[0]]["metadata"]["uid"] == before
    assert ("pods", "team", "small-gateway-1") in api.objects
    assert controller.volumes.lost == []


def test_nothing_is_begun_while_a_pod_still_has_the_volume() -> None:
    world = api, operator, controller = begin_with(journalVolume=VOLUME, replicas=2)
    step, controller.volumes.step = controller.volumes.step, lambda: False  # type: ignore[method-assign]
    go_on(world, journalVolume=VOLUME, replicas=1)
    assert api.objects["statefulsets", "team", "small-gateway"]["spec"]["replicas"] == 1
    assert puts(api) == []
    controller.volumes.step = step  # type: ignore[method-assign]
    operator.finish(controller)
    assert names(api, CLAIMS) == claims(0)


def test_a_job_that_somebody_ended_is_made_again() -> None:
    world = api, operator, controller = begin_with(journalVolume=VOLUME, replicas=2)
    controller.volumes.bucket = False
    go_on(world, journalVolume=VOLUME, replicas=1)
    [job] = puts(api)
    failed = {"type": "Failed", "status": "True", "lastTransitionTime": "2026-01-31T12:00:00Z"}
    api.edit("jobs", "team", job["metadata"]["name"], status={"conditions": [failed]})
    operator.finish(controller)
    [another] = puts(api)
    assert another["metadata"]["uid"] != job["metadata"]["uid"]
    assert names(api, CLAIMS) == claims(0, 1)


def test_volumes_come_with_new_gateways_before_the_old_ones_end() -> None:
    world = api, operator, controller = begin_with()
    controller.volumes.binds = False  # there is no room for volumes
    go_on(world, journalVolume=VOLUME)
    assert kinds(api) == ["deployments", "statefulsets"]
    controller.volumes.binds = True
    operator.finish(controller)
    assert kinds(api) == ["statefulsets"]


def waiting(**gateway: Any) -> tuple[World, ToyGateway]:
    """A run that waits for customers."""
    api, operator, controller = begin(**LIVE, gateway=gateway)
    operator.patience = LOOK_AGAIN - 1
    customers = ToyGateway(enough=False, api=api)
    operator.rest(controller)
    assert stands(api, "Reconciling") == ("True", "WaitingForConversations")
    return (api, operator, controller), customers


def test_gateways_that_wait_for_their_volumes_say_so_while_others_answer() -> None:
    (api, operator, controller), gateway = waiting()
    controller.volumes.binds = False
    edit(api, gateway={"journalVolume": VOLUME})
    operator.rest(controller)
    trouble = status_of(api)["live"]["trouble"]
    assert (trouble["reason"], "unbound immediate" in trouble["message"]) == ("GatewayUnreachable", True)
    gateway.enough, asked = True, gateway.asked
    operator.now += timedelta(seconds=30)
    operator.settle()
    assert gateway.asked > asked
    assert condition(api, "Reconciling")["reason"] != "WaitingForConversations"  # what the old ones say counts
    controller.volumes.binds = True
    operator.finish(controller)
    assert "trouble" not in status_of(api)["live"]


@pytest.mark.parametrize("bucket", [True, False], ids=["bucket", "no bucket"])
def test_without_volumes_again_all_events_and_volumes_are_gone_in_the_end(bucket: bool) -> None:
    world = api, operator, controller = begin_with(journalVolume=VOLUME, replicas=2)
    controller.volumes.bucket = bucket
    go_on(world, replicas=2)
    assert kinds(api) == ["deployments"] if bucket else ["deployments", "statefulsets"]
    controller.volumes.bucket = True
    operator.finish(controller)
    assert kinds(api) == ["deployments"]
    assert api.all(CLAIMS) == puts(api) == []
    assert controller.volumes.lost == []


def test_the_old_gateways_stay_while_those_without_volumes_are_not_ready() -> None:
    world = api, operator, controller = begin_with(journalVolume=VOLUME)
    controller.serves = lambda _template: False
    go_on(world)
    assert api.objects["statefulsets", "team", "small-gateway"]["spec"]["replicas"] == 1
    controller.serves = lambda _template: True
    operator.finish(controller)
    assert kinds(api) == ["deployments"]


OTHER_VOLUMES = [{"storage": "4Gi"}, {"storage": "2Gi", "storageClassName": "fast"}]


@pytest.mark.parametrize("volume", OTHER_VOLUMES, ids=["larger", "another class"])
@pytest.mark.parametrize("bucket", [True, False], ids=["bucket", "no bucket"])
def test_another_volume_is_a_way_there_and_back(volume: dict[str, Any], bucket: bool) -> None:
    world = api, operator, controller = begin_with(journalVolume=VOLUME, replicas=2)
    controller.volumes.bucket = bucket
    go_on(world, journalVolume=volume, replicas=2)
    assert kinds(api) == (["statefulsets"] if bucket else ["deployments", "statefulsets"])
    controller.volumes.bucket = True
    operator.finish(controller)
    assert kinds(api) == ["statefulsets"]
    specs = [claim["spec"] for claim in api.all(CLAIMS)]
    assert [spec["resources"]["requests"]["storage"] for spec in specs] == [volume["storage"]] * 2
    assert [spec.get("storageClassName") for spec in specs] == [volume.get("storageClassName")] * 2
    assert controller.volumes.lost == []


def test_the_same_amount_in_other_words_is_no_change() -> None:
    world = api, _, _ = begin_with(journalVolume=VOLUME)
    before = api.objects["statefulsets", "team", "small-gateway"]["metadata"]["uid"]
    go_on(world, journalVolume={"storage": "2048Mi"})
    assert api.objects["statefulsets", "team", "small-gateway"]["metadata"]["uid"] == before
    assert kinds(api) == ["statefulsets"]


def test_off_and_on_again_before_the_volumes_are_empty() -> None:
    world = api, _, controller = begin_with(journalVolume=VOLUME, replicas=2)
    controller.volumes.bucket = False
    go_on(world, replicas=2)
    assert kinds(api) == ["deployments", "statefulsets"]
    go_on(world, journalVolume=VOLUME, replicas=2)
    assert kinds(api) == ["statefulsets"]
    assert api.objects["statefulsets", "team", "small-gateway"]["spec"]["replicas"] == 2
    assert names(api, CLAIMS) == claims(0, 1)
    assert puts(api) == []
    assert controller.volumes.lost == []


def test_an_autoscalers_number_stays_and_what_it_leaves_goes_into_the_bucket() -> None:
    api, operator, controller = begin_with(journalVolume=VOLUME)
    for replicas in (4, 2):
        there = api.objects["statefulsets", "team", "small-gateway"]
        api.edit("statefulsets", "team", "small-gateway", spec=there["spec"] | {"replicas": replicas})
        operator.finish(controller)
        assert names(api, CLAIMS) == claims(*range(replicas))
    assert controller.volumes.lost == []


def test_a_strangers_claim_is_never_touched() -> None:
    world = api, _, _ = begin_with(journalVolume=VOLUME, replicas=2)
    [mine, *_] = api.all(CLAIMS)
    stranger = {"uid": "00000000-0000-0000-0000-00000000dead", "kind": "X", "name": "x", "apiVersion": "v1"}
    for name, owners in ((claims(7)[0], [stranger]), ("ippo-journal-other-3", mine["metadata"]["ownerReferences"])):
        labels = mine["metadata"]["labels"] | {identity.RUN: "small"}
        api.put(CLAIMS, {"metadata": {"name": name, "namespace": "team", "labels": labels, "ownerReferences": owners}})
    go_on(world, journalVolume=VOLUME, replicas=1)
    assert sorted(names(api, CLAIMS)) == sorted([*claims(0, 7), "ippo-journal-other-3"])


def test_a_job_that_the_server_refuses_is_told_of() -> None:
    (api, operator, controller), gateway = waiting(journalVolume=VOLUME, replicas=2)
    controller.volumes.bucket = False
    no = answer(403, "Forbidden", "exceeded quota: team-quota")
    api.before = lambda _n, request: no if request.method == "POST" and "/jobs" in request.path else None
    edit(api, gateway={"journalVolume": VOLUME, "replicas": 1})
    for _ in range(10):
        operator.reconcile()
        controller.step()
    assert "team-quota" in status_of(api)["live"]["trouble"]["message"]
    api.before = lambda _n, _r: None
    controller.volumes.bucket = gateway.enough = True
    operator.finish(controller)
    assert "trouble" not in status_of(api)["live"]
    assert names(api, CLAIMS) == claims(0)


def test_a_run_that_is_deleted_takes_its_volumes_with_it() -> None:
    api, _, _ = begin_with(journalVolume=VOLUME, replicas=2)
    api.remove("iterativepporuns", "team", "small")
    assert api.all(CLAIMS) == api.all("statefulsets") == []


def test_a_run_that_is_deleted_while_somebody_keeps_it_loses_its_gateways() -> None:
    api, operator, _ = begin_with(journalVolume=VOLUME)
    metadata = the_run(api)["metadata"] | {"deletionTimestamp": "2026-01-31T13:00:00Z", "finalizers": ["theirs/x"]}
    api.edit("iterativepporuns", "team", "small", metadata=metadata)
    operator.settle()
    assert api.all("statefulsets") == []
