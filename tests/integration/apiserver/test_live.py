"""A live run on a real API server, through whose proxy the operator asks a gateway: this process plays its pod."""

import asyncio
import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from ippo_operator.cluster.access.kubeconfig import Flags, load
from ippo_operator.cluster.client import Client
from ippo_operator.cluster.connection import KubernetesTransport
from ippo_operator.cluster.errors import ApiError
from ippo_operator.cluster.mending import mend, repair
from ippo_operator.manifests import identity
from ippo_trainer.contract.live import REPORT_MOST, REPORT_PATH, Routes

from tests.kit.api_runs import condition, create_run, stands, status_of, wait_for
from tests.kit.control_plane import TOKEN, Api, ControlPlane
from tests.kit.hostile_pod import DEEDS, HostilePod, reply
from tests.kit.operator_process import Operator
from tests.kit.toy_controllers import APPS, StandIn
from tests.kit.toy_gateway import LIVE, Customers
from tests.kit.waiting import until

FLAGS = ("--serve-image", "servers:test", "--resync-seconds", "1")
OBJECTS = {
    "gateway": ("/api/v1/namespaces/{}/configmaps/small-gateway", f"{APPS}/namespaces/{{}}/deployments/small-gateway"),
    "candidate": (
        f"{APPS}/namespaces/{{}}/deployments/small-candidate",
        "/api/v1/namespaces/{}/services/small-candidate",
    ),
}


def own_address() -> str:
    """Of this machine, as others see it: the proxy refuses loopback addresses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return str(probe.getsockname()[0])


class Pod(HostilePod):
    """Of the gateway small-gateway, at this machine's address."""

    host = "0.0.0.0"

    def __init__(self, api: Api, namespace: str) -> None:
        super().__init__()
        self.customers = Customers()
        self._api, self._namespace = api, namespace
        self.deed = self.report

    def report(self, handler: BaseHTTPRequestHandler) -> None:
        """As a gateway does, by the routes that are there."""
        routes = self.routes()
        assert handler.path == REPORT_PATH
        reply(handler, 200, self.customers.body(routes))

    def routes(self) -> str:
        there = self._api.get(OBJECTS["gateway"][0].format(self._namespace)).body
        return str(there["data"]["routes.json"])

    def connect(self) -> None:
        """Makes it the endpoint of the port for the operator: the proxy asks pods only, at their own addresses."""
        place, address = f"/api/v1/namespaces/{self._namespace}", own_address()
        containers = [{"name": "gateway", "image": "x"}]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "g"}, "spec": {"containers": containers}}
        assert self._api.create(f"{place}/pods", pod).code == 201
        there = {"status": {"podIP": address, "podIPs": [{"ip": address}]}}
        assert self._api.merge(f"{place}/pods/g/status", there).code == 200
        of = {"ip": address, "targetRef": {"kind": "Pod", "name": "g", "namespace": self._namespace}}
        endpoints = {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {"name": "small-gateway"},
            "subsets": [{"addresses": [of], "ports": [{"name": "internal", "port": self.port}]}],
        }
        assert self._api.create(f"{place}/endpoints", endpoints).code == 201


@pytest.fixture
def pod(api: Api, namespace: str) -> Iterator[Pod]:
    try:
        own_address()
    except OSError:
        pytest.skip("this machine has no address but its loopback")
    with Pod(api, namespace) as pod:
        yield pod


def test_a_live_run_waits_tests_its_candidate_and_ends(
    api: Api, control_plane: ControlPlane, namespace: str, tmp_path: Path, pod: Pod
) -> None:
    pod.customers.enough, pod.customers.outcome = False, None
    with StandIn(api) as cluster, Operator(control_plane, tmp_path, "--lease-name", namespace, *FLAGS) as operator:
        operator.wait_ready()
        path = create_run(api, namespace, **LIVE)
        until(lambda: api.get(OBJECTS["gateway"][1].format(namespace)).code == 200, "there is a gateway", 60)
        # Nobody answers yet: that is told, and holds up nothing else.
        wait_for(api, path, "Reconciling", operator, reason="GatewayUnreachable")
        assert "gateway small-gateway" in condition(api, path, "Reconciling")["message"]
        pod.connect()
        wait_for(api, path, "Reconciling", operator, reason="WaitingForConversations")
        pod.customers.enough = True
        until(lambda: stands(api, path, "Promoted") == ("Unknown", "CanaryRunning"), "the test begins", 60)
        until(lambda: Routes.model_validate_json(pod.routes()).canary is not None, "gateways know", 60)
        assert all(api.get(of.format(namespace)).code == 200 for of in OBJECTS["candidate"])
        pod.customers.outcome = "Promote"
        wait_for(api, path, "Ready", operator, reason="Completed")
        status = status_of(api, path)
        routes = Routes.model_validate_json(pod.routes())
        assert (routes.canary, routes.active.digest) == (None, status["policy"]["artifact"]["digest"])
        assert status["iterations"][-1]["canary"]["outcome"] == "Promote"
        assert not any("authorization" in headers for headers in pod.headers)
        assert cluster.errors == []


def ask(control_plane: ControlPlane, namespace: str) -> bytes:
    """As the operator does."""

    async def scene() -> bytes:
        flags = Flags(kubeconfig=str(control_plane.kubeconfig))
        async with KubernetesTransport(load(flags), lambda: load(flags)) as transport:
            return await Client(transport).ask("small-gateway:internal", namespace, REPORT_PATH, REPORT_MOST, 3.0)

    return asyncio.run(asyncio.wait_for(scene(), 30))


def test_whatever_a_pod_does_the_proxy_hands_on_nothing_that_harms(
    api: Api, control_plane: ControlPlane, namespace: str, pod: Pod
) -> None:
    port = {"name": "internal", "port": 9090}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "small-gateway"}, "spec": {"ports": [port]}}
    assert api.create(f"/api/v1/namespaces/{namespace}/services", service).code == 201
    pod.connect()
    pod.answers(b"{}")
    until(lambda: answers(control_plane, namespace), "the API server knows the endpoint", 30)
    for name, deed in DEEDS.items():
        pod.deed = deed
        with pytest.raises(ApiError) as error:
            ask(control_plane, namespace)
        assert str(error.value).isprintable(), name
        assert len(str(error.value).encode()) < 512, name
    assert set(pod.paths) == {REPORT_PATH}  # no redirect leads anywhere
    assert TOKEN not in json.dumps(pod.headers)


def answers(control_plane: ControlPlane, namespace: str) -> bool:
    try:
        return ask(control_plane, namespace) == b"{}"
    except ApiError:
        return False


@pytest.mark.parametrize("immutable", [False, True], ids=["edited", "made immutable"])
def test_routes_that_somebody_changed_are_put_back(
    api: Api, control_plane: ControlPlane, namespace: str, immutable: bool
) -> None:
    wanted: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "small-gateway", "namespace": namespace, "labels": {identity.RUN: "small"}},
        "data": {"routes.json": "{}"},
    }
    path = f"/api/v1/namespaces/{namespace}/configmaps/small-gateway"

    async def put_right() -> None:
        flags = Flags(kubeconfig=str(control_plane.kubeconfig))
        async with KubernetesTransport(load(flags), lambda: load(flags)) as transport:
            there = api.get(path)
            due = repair(wanted, there.body if there.code == 200 else None)
            assert due is not None
            await mend(Client(transport), due)

    asyncio.run(put_right())
    theirs = {"data": {"routes.json": "evil", "more": "x"}} | ({"immutable": True} if immutable else {})
    assert api.merge(path, theirs).code == 200
    asyncio.run(put_right())
    there = api.get(path).body
    assert there["data"] == wanted["data"]
    assert "immutable" not in there
    assert repair(wanted, there) is None
