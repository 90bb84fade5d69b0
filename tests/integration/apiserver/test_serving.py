"""A run that serves, on a real API server; a stand-in plays the Deployment controller."""

import re
from pathlib import Path
from typing import Any

from ippo_operator.manifests import identity

from tests.kit.api_runs import create_run, stands, wait_for
from tests.kit.control_plane import Api, ControlPlane
from tests.kit.operator_process import Operator
from tests.kit.toy_controllers import APPS, StandIn
from tests.kit.waiting import until

FLAGS = ("--serve-image", "servers:test", "--resync-seconds", "20")
SERVERS = {
    "resources": {"requests": {"cpu": "0.5", "memory": "1024Mi"}, "limits": {"memory": "2048Mi"}},
    "sharedMemory": "1024Mi",
    "env": [{"name": "EMPTY", "value": ""}],
}
"""Amounts that the API server rewrites, and what it leaves out."""


def deployment(api: Api, namespace: str) -> dict[str, Any]:
    return dict(api.get(f"{APPS}/namespaces/{namespace}/deployments/small").body)


def annotations(api: Api, namespace: str) -> dict[str, str]:
    return dict(deployment(api, namespace)["spec"]["template"]["metadata"]["annotations"])


def patches(operator: Operator) -> int:
    _, text = operator.probe("/metrics")
    found = re.findall(r'ippo_api_requests_total\{[^}]*"PATCH"[^}]*"deployments"[^}]*\} ([0-9.]+)', text)
    return int(sum(map(float, found)))


def test_a_run_that_serves_ends_with_the_promoted_policy_ready(
    api: Api, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    with StandIn(api) as cluster, Operator(control_plane, tmp_path, "--lease-name", namespace, *FLAGS) as operator:
        operator.wait_ready()
        path = create_run(api, namespace, pods={"serve": SERVERS}, iterations={"max": 2}, serve={"replicas": 2})
        wait_for(api, path, "Ready", operator, reason="Completed")
        status = api.get(path).body["status"]
        assert annotations(api, namespace)[identity.POLICY_DIGEST] == status["policy"]["artifact"]["digest"]
        assert status["serving"]["active"]["digest"] == status["policy"]["artifact"]["digest"]
        service = api.get(f"/api/v1/namespaces/{namespace}/services/small").body
        selector = deployment(api, namespace)["spec"]["selector"]["matchLabels"]
        assert service["spec"]["selector"] == selector
        assert patches(operator) == 3  # one for each policy: what the server adds and rewrites is no difference
        uid = deployment(api, namespace)["metadata"]["uid"]
        api.delete(f"{APPS}/namespaces/{namespace}/deployments/small")
        until(lambda: deployment(api, namespace).get("metadata", {}).get("uid", uid) != uid, "it is there again", 30)
        wait_for(api, path, "Ready", operator, reason="Completed")
        api.merge(path, {"spec": {"serve": None}})
        until(lambda: "serving" not in api.get(path).body["status"], "serving ended", 30)
        assert api.get(f"{APPS}/namespaces/{namespace}/deployments/small").code == 404
        assert api.get(f"/api/v1/namespaces/{namespace}/services/small").code == 404
        assert cluster.errors == []


def test_a_policy_that_never_gets_ready_is_rolled_back(
    api: Api, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    def serves(template: dict[str, Any]) -> bool:
        broken = template["spec"]["containers"][0]["image"] == "broken:1"
        return template["metadata"]["annotations"][identity.ITERATION] != "2" and not broken

    with (
        StandIn(api, serves=serves) as cluster,
        Operator(control_plane, tmp_path, "--lease-name", namespace, *FLAGS) as operator,
    ):
        operator.wait_ready()
        path = create_run(api, namespace, pods={"serve": SERVERS}, serve={})
        wait_for(api, path, "Ready", operator, reason="Completed")
        before = deployment(api, namespace)["spec"]["template"]
        api.merge(path, {"spec": {"iterations": {"max": 2}}})
        wait_for(api, path, "Stalled", operator, reason="RolledBack")
        assert stands(api, path, "Succeeded") == ("True", "Completed")
        assert stands(api, path, "Ready") == ("False", "RolledBack")
        until(lambda: "waitingSince" not in api.get(path).body["status"]["serving"], "the old one is ready", 30)
        assert deployment(api, namespace)["spec"]["template"] == before
        failed = api.get(path).body["status"]["serving"]["failed"]["settings"]

        def tried_again() -> bool:
            told = api.get(path).body["status"]["serving"].get("failed") or {"settings": failed}
            return bool(told["settings"] != failed)

        api.merge(path, {"spec": {"pods": {"serve": {"image": "broken:1"}}}})
        until(tried_again, "the other image is tried, and fails", 30)
        until(lambda: deployment(api, namespace)["spec"]["template"] == before, "the old settings are back", 30)
        sets = api.get(f"{APPS}/namespaces/{namespace}/replicasets").body["items"]
        assert len(sets) == 4  # two iterations' before, the one of the second, and the broken image
        events = api.get(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events").body["items"]
        assert "RolledBack" in {event["reason"] for event in events}
        assert cluster.errors == []
