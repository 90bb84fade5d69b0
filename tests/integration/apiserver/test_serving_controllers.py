"""Roll-out and roll-back with Kubernetes' own Deployment controller; a stand-in plays the kubelet."""

from pathlib import Path
from typing import Any

from ippo_operator.manifests import identity

from tests.kit.api_runs import condition, create_run, stands, wait_for
from tests.kit.control_plane import Api
from tests.kit.kubelet import Kubelet, Pod, namespace_of
from tests.kit.operator_process import Operator
from tests.kit.real_controllers import Cluster
from tests.kit.toy_controllers import APPS
from tests.kit.waiting import until

NAMESPACE = "served"
ADDRESS = "10.244.0.5"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


class Node(Kubelet):
    """Also runs servers, which are ready at once."""

    def _look_at(self, pod: Pod) -> None:
        server = pod["metadata"].get("labels", {}).get(identity.COMPONENT) == "server"
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
        bound = pod["spec"].get("nodeName") and "deletionTimestamp" not in pod["metadata"]
        if not server or not bound:
            super()._look_at(pod)
        elif pod["status"].get("phase") == "Pending" and not self._troubled(pod, path):
            conditions = [{"type": kind, "status": "True"} for kind in ("PodScheduled", "ContainersReady", "Ready")]
            self._api.merge(
                f"{path}/status",
                {
                    "status": {
                        "phase": "Running",
                        "conditions": conditions,
                        "podIP": ADDRESS,
                        "podIPs": [{"ip": ADDRESS}],
                    }
                },
            )


def servers(api: Api) -> dict[str, str]:
    """Names and images of the servers that are there."""
    items = api.get(f"{PODS}?labelSelector={identity.COMPONENT}=server").body["items"]
    return {item["metadata"]["name"]: item["spec"]["containers"][0]["image"] for item in items}


def replica_sets(api: Api) -> list[dict[str, Any]]:
    return list(api.get(f"{APPS}/namespaces/{NAMESPACE}/replicasets").body["items"])


def test_an_image_that_cannot_be_pulled_is_rolled_back_and_the_old_server_never_stops(
    cluster: Cluster, tmp_path: Path
) -> None:
    api, flags = cluster.api, ("--lease-name", NAMESPACE, "--serve-image", "servers:1")
    namespace_of(api, NAMESPACE)
    with Node(api) as node, Operator(cluster, tmp_path, *flags) as operator:
        node.no_such_image.add("broken:1")
        operator.wait_ready()
        path = create_run(api, NAMESPACE, serve={"progressDeadlineSeconds": 10})
        wait_for(api, path, "Ready", operator, reason="Completed", seconds=120)
        until(lambda: list(servers(api).values()) == ["servers:1"], "one server is left", 30)
        [first] = servers(api)
        api.merge(path, {"spec": {"pods": {"serve": {"image": "broken:1"}}}})
        until(lambda: "broken:1" in servers(api).values(), "the new server is tried", 30)
        assert first in servers(api)
        wait_for(api, path, "Stalled", operator, reason="RolledBack", seconds=60)
        assert "broken:1 cannot be pulled" in condition(api, path, "Ready")["message"]
        assert stands(api, path, "Succeeded") == ("True", "Completed")
        until(lambda: servers(api) == {first: "servers:1"}, "the old server alone is left", 30)
        assert len(replica_sets(api)) == 3  # of the warm start, of iteration 1 and of the broken image
        api.merge(path, {"spec": {"pods": {"serve": {"image": "servers:2"}}}})
        wait_for(api, path, "Ready", operator, reason="Completed", seconds=60)
        until(lambda: list(servers(api).values()) == ["servers:2"], "the new server alone is left", 30)
        assert node.errors == []
        assert operator.stop() == 0
    api.delete(f"/api/v1/namespaces/{NAMESPACE}")
