"""The operator's rights, both ways: a complete life of runs needs no other right, and makes use of every one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ippo_operator.plan.names import job_name

from tests.integration.apiserver.process import Operator
from tests.integration.apiserver.server import RUNS, Api, ControlPlane, until
from tests.integration.apiserver.stand_in import StandIn
from tests.unit.operator.cluster.toy_cluster import make_run

from .conftest import make_namespace
from .helm import Manifest, apply, container, objects, of_kind, path, render
from .rights import Audit, granted

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/iterativepporuns.ippo.dev"
CLUSTER_WIDE = ("clusterwide", ())
ROLES_ONLY = ("roles", ("--set=watchNamespaces={roles-a,roles-b}", "--set=userRoles.create=false"))


class Installed:
    """The chart in a cluster, and its operator as a process with the chart's arguments and its service account."""

    def __init__(self, plane: ControlPlane, folder: Path, name: str, flags: tuple[str, ...]) -> None:
        self.api = plane.api
        self.namespaces = [make_namespace(plane.api, f"{name}-{part}") for part in ("a", "b")]
        self.own = make_namespace(plane.api, f"{name}-ops")
        self.objects = objects(render(*flags, "--set=resyncSeconds=5", namespace=self.own))
        for manifest in self.objects:
            answer = apply(plane.api, manifest)
            assert answer.code in {200, 201}, answer.message
        until(lambda: plane.api.get(RUNS.format("default")).code == 200, "the CRD is served")
        account = f"/api/v1/namespaces/{self.own}/serviceaccounts/ippo-operator/token"
        token = plane.api.create(account, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"})
        assert token.code == 201, token.message
        self.audit = Audit(plane.audit_log, f"system:serviceaccount:{self.own}:ippo-operator")
        kubeconfig = plane.kubeconfig_of(token.body["status"]["token"], f"kubeconfig-{name}")
        args = [arg for arg in container(self.objects)["args"] if not arg.startswith("--port=")]
        self.operator = Operator(plane, folder, *args, kubeconfig=kubeconfig)

    def remove(self) -> None:
        """Everything but the namespaces."""
        for place in self.namespaces:
            self.api.delete(RUNS.format(place))
            self.api.delete(f"/apis/batch/v1/namespaces/{place}/jobs")
        for manifest in reversed(self.objects):
            self.api.delete(path(manifest))
        until(lambda: self.api.get(CRD).code == 404, "the CRD is gone")


@pytest.fixture(params=[CLUSTER_WIDE, ROLES_ONLY], ids=["cluster-wide", "roles-only"])
def installed(request: pytest.FixtureRequest, plane: ControlPlane, tmp_path: Path) -> Iterator[Installed]:
    made = Installed(plane, tmp_path, *request.param)
    with made.operator:
        made.operator.wait_ready()
        yield made
    made.remove()


def create(api: Api, place: str, name: str, **spec: Any) -> str:
    answer = api.create(RUNS.format(place), make_run(**spec) | {"metadata": {"name": name}})
    assert answer.code == 201, answer.message
    return f"{RUNS.format(place)}/{name}"


def condition(api: Api, run: str, kind: str) -> tuple[str, str]:
    conditions = api.get(run).body.get("status", {}).get("conditions", [])
    return next(((c["status"], c["reason"]) for c in conditions if c["type"] == kind), ("", ""))


def wait_for(made: Installed, run: str, kind: str, reason: str = "") -> None:
    def holds() -> bool:
        status, why = condition(made.api, run, kind)
        return status == "True" and reason in {"", why}

    try:
        until(holds, f"{kind} {reason}", 60)
    except TimeoutError as error:
        status = json.dumps(made.api.get(run).body.get("status"), indent=1)[-2000:]
        raise AssertionError(f"{error}\n{status}\n{made.operator.log.read_text()[-3000:]}") from None


def jobs(api: Api, place: str) -> list[Manifest]:
    return list(api.get(f"/apis/batch/v1/namespaces/{place}/jobs").body["items"])


def a_whole_life(made: Installed) -> None:
    """Runs that make the operator do everything that it can do."""
    a_run_that_waits_is_suspended_and_goes_on(made)
    a_name_that_is_taken(made)


def a_run_that_waits_is_suspended_and_goes_on(made: Installed) -> None:
    api, place = made.api, made.namespaces[0]
    run = create(api, place, "whole", cleanup={"succeededSeconds": 0, "failedSeconds": 0})
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
    run = create(api, place, "taken", suspend=True)
    wait_for(made, run, "Suspended")
    name = job_name("taken", api.get(run).body["metadata"]["uid"], 0, "warm-start", 1)
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}
    foreign = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": {"spec": pod}}}
    assert api.create(f"/apis/batch/v1/namespaces/{place}/jobs", foreign).code == 201
    api.merge(run, {"spec": {"suspend": False}})
    wait_for(made, run, "Stalled", "ChildConflict")


def test_nothing_is_forbidden_and_every_right_is_used(installed: Installed) -> None:
    a_whole_life(installed)
    assert installed.operator.stop() == 0
    assert installed.audit.forbidden() == []
    roles = [
        role
        for role in of_kind(installed.objects, "ClusterRole") + of_kind(installed.objects, "Role")
        if not role["metadata"]["name"].startswith(("ippo-view", "ippo-edit"))
    ]
    assert sorted(granted(roles)) == sorted(installed.audit.used())


def test_a_right_that_is_missing_would_be_found(plane: ControlPlane, tmp_path: Path) -> None:
    """The test of the test."""
    made = Installed(plane, tmp_path, *ROLES_ONLY)
    role = next(o for o in of_kind(made.objects, "Role") if o["metadata"]["namespace"] == made.namespaces[1])
    role["rules"] = [rule for rule in role["rules"] if "jobs" not in rule["resources"]]
    apply(plane.api, role)
    with made.operator:
        until(lambda: any("/jobs" in request for request in made.audit.forbidden()), "something is forbidden", 60)
        code, body = made.operator.probe("/readyz")
        assert (code, "may this service account watch them?" in body) == (503, True)
    made.remove()
