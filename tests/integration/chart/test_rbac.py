"""The operator's rights, both ways: a complete life of runs needs no other right, and makes use of every one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ippo_operator.plan.names import job_name

from tests.kit.api_runs import create_run, jobs, stands
from tests.kit.control_plane import Api, ControlPlane
from tests.kit.toy_controllers import StandIn, connect, job_status
from tests.kit.toy_gateway import LIVE
from tests.kit.waiting import until

from .helm import USER_ROLES, apply, of_kind
from .installed import CLUSTER_WIDE, ROLES_ONLY, Installed, wait_for
from .rights import granted


@pytest.fixture(params=[("clusterwide", CLUSTER_WIDE), ("roles", ROLES_ONLY)], ids=["cluster-wide", "roles-only"])
def installed(request: pytest.FixtureRequest, plane: ControlPlane, tmp_path: Path) -> Iterator[Installed]:
    release = Installed(plane, tmp_path, *request.param)
    with release.operator:
        release.operator.wait_ready()
        yield release
    release.remove()


def a_whole_life(made: Installed) -> None:
    """Runs that make the operator do everything that it can do."""
    a_run_that_waits_is_suspended_and_goes_on(made)
    a_name_that_is_taken(made)
    a_stage_that_fails_twice(made)
    a_policy_is_served_until_it_is_not(made)
    a_run_has_a_gateway(made)
    a_gateway_has_a_volume_until_it_has_not(made)


def a_run_that_waits_is_suspended_and_goes_on(made: Installed) -> None:
    api, place = made.api, made.namespaces[0]
    run = create_run(api, place, "whole", cleanup={"succeededSeconds": 0, "failedSeconds": 0})
    # No pod comes: after some seconds the operator looks for the reason among the events.
    until(lambda: any(right[1:] == ("events", "list") for right in made.audit.used()), "events are asked for", 60)
    api.merge(run, {"spec": {"suspend": True}})
    until(lambda: all("deletionTimestamp" in job["metadata"] for job in jobs(api, place)), "the job is told to stop")
    with StandIn(api) as cluster:
        wait_for(made, run, "Suspended")
        api.merge(run, {"spec": {"suspend": False}})
        wait_for(made, run, "Succeeded")
        until(lambda: jobs(api, place) == [], "its jobs are cleaned up", 60)
        assert cluster.errors == []


def a_name_that_is_taken(made: Installed) -> None:
    api, place = made.api, made.namespaces[1]
    run = create_run(api, place, "taken", suspend=True)
    wait_for(made, run, "Suspended")
    name = job_name("taken", api.get(run).body["metadata"]["uid"], 0, "warm-start", 1)
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}
    foreign = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": {"spec": pod}}}
    assert api.create(f"/apis/batch/v1/namespaces/{place}/jobs", foreign).code == 201
    api.merge(run, {"spec": {"suspend": False}})
    wait_for(made, run, "Stalled", "ChildConflict")


def a_stage_that_fails_twice(made: Installed) -> None:
    """The second event of the same is a series of the first."""
    api, place = made.api, made.namespaces[0]
    with StandIn(api, ending=lambda _spec: (75, "the world is not ready")) as cluster:
        run = create_run(api, place, "twice", retries={"tryAgain": 1, "backoffSeconds": 0})
        wait_for(made, run, "Stalled", "BudgetExhausted")
        assert cluster.errors == []


def a_policy_is_served_until_it_is_not(made: Installed) -> None:
    api, place = made.api, made.namespaces[1]
    deployment = f"/apis/apps/v1/namespaces/{place}/deployments/served"
    with StandIn(api) as cluster:
        run = create_run(api, place, "served", serve={"engine": "Transformers"})
        until(lambda: api.get(deployment).code == 200, "there is a deployment", 60)
        until(lambda: serve(api, deployment) and stands(api, run, "Ready")[0] == "True", "the policy is served", 60)
        assert cluster.errors == []
    api.merge(run, {"spec": {"serve": None}})
    until(lambda: api.get(deployment).code == 404, "nothing is served any more")


def a_run_has_a_gateway(made: Installed) -> None:
    """Which is asked for its counts, has no pod to answer, and is told other routes."""
    api, place = made.api, made.namespaces[0]
    with StandIn(api) as cluster:
        run = create_run(api, place, "small", **LIVE | {"serve": {"engine": "Transformers"}})
        wait_for(made, run, "Reconciling", "GatewayUnreachable")
        proxy = ("", "services/proxy", "get")
        until(lambda: proxy in made.audit.used(), "the gateway is asked", 60)
        api.merge(run, {"spec": {"collect": {"logged": {"personas": [{"name": "brief", "share": "0.1"}]}}}})
        until(lambda: "brief" in routes(api, place), "the gateway is told", 60)
        assert cluster.errors == []


def a_gateway_has_a_volume_until_it_has_not(made: Installed) -> None:
    """And there is one of a gateway that comes no more: nobody but the operator does anything about it."""
    api, place = made.api, made.namespaces[1]
    workload, claims = (
        "/apis/apps/v1/namespaces/{}/{}/small-gateway",
        f"/api/v1/namespaces/{place}/persistentvolumeclaims",
    )
    with StandIn(api) as cluster:
        section = {"journalVolume": {"storage": "2Gi"}}
        run = create_run(api, place, "small", **LIVE | {"serve": {"engine": "Transformers"}, "gateway": section})
        gateways = workload.format(place, "statefulsets")
        until(lambda: api.get(gateways).code == 200, "there is a gateway", 60)
        [claim] = api.get(gateways).body["spec"]["volumeClaimTemplates"]
        claim["metadata"]["name"] = "ippo-journal-small-gateway-1"
        assert api.create(claims, claim).code == 201
        job = f"/apis/batch/v1/namespaces/{place}/jobs/small-gateway-1-put"
        until(lambda: api.get(job).code == 200, "what is left is to be put", 60)
        assert api.merge(f"{job}/status", {"status": job_status(api.get(job).body, 0)}).code == 200
        left = f"{claims}/ippo-journal-small-gateway-1"
        until(lambda: "deletionTimestamp" in api.get(left).body["metadata"], "an empty volume goes", 60)
        api.merge(left, {"metadata": {"finalizers": None}})
        api.merge(run, {"spec": {"gateway": None}})
        until(lambda: api.get(workload.format(place, "deployments")).code == 200, "there is another gateway", 60)
        until(lambda: api.get(gateways).code == 404, "the one with a volume is gone", 60)
        assert cluster.errors == []


def routes(api: Api, place: str) -> str:
    return str(api.get(f"/api/v1/namespaces/{place}/configmaps/small-gateway").body["data"])


def serve(api: Api, deployment: str) -> bool:
    """As the Deployment controller does once the newest servers are ready."""
    item = api.get(deployment).body
    count = item["spec"]["replicas"]
    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), count)
    progressing = {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}
    status = {"observedGeneration": item["metadata"]["generation"], "conditions": [progressing], **counts}
    connect(api, item | {"status": status})
    return api.merge(f"{deployment}/status", {"status": status}).code == 200


def test_nothing_is_forbidden_and_every_right_is_used(installed: Installed) -> None:
    a_whole_life(installed)
    assert installed.operator.stop() == 0
    assert installed.audit.forbidden() == []
    roles = [
        role
        for role in of_kind(installed.objects, "ClusterRole") + of_kind(installed.objects, "Role")
        if role["metadata"]["name"] not in USER_ROLES
    ]
    assert sorted(granted(roles)) == sorted(installed.audit.used())


def says_so(answer: tuple[int, str]) -> bool:
    code, body = answer
    return code == 503 and "may this service account watch?" in body


def test_a_right_that_is_missing_would_be_found(plane: ControlPlane, tmp_path: Path) -> None:
    """The test of the test."""
    release = Installed(plane, tmp_path, "roles", ROLES_ONLY)
    role = next(o for o in of_kind(release.objects, "Role") if o["metadata"]["namespace"] == release.namespaces[1])
    role["rules"] = [rule for rule in role["rules"] if "jobs" not in rule["resources"]]
    apply(plane.api, role)
    with release.operator:
        until(lambda: any("/jobs" in request for request in release.audit.forbidden()), "something is forbidden", 60)
        until(lambda: says_so(release.operator.probe("/readyz")), "/readyz says so", 60)
    assert all("/jobs" in request for request in release.audit.forbidden())  # that right, and no other
    release.remove()
