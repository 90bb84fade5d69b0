"""An operator of the chart's size among tenants who make large objects, and many; and the limits of what it writes."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from ippo_operator.api.crd import custom_resource_definition
from ippo_operator.api.status import MAX_MESSAGE
from ippo_operator.cluster.access import kubeconfig
from ippo_operator.cluster.access.kubeconfig import Flags
from ippo_operator.cluster.client import Client
from ippo_operator.cluster.connection import KubernetesTransport
from ippo_operator.cluster.errors import ConflictError
from ippo_operator.cluster.events import EventWriter
from ippo_operator.cluster.resources import RUNS as RUN_KIND
from ippo_operator.plan.types import Event

from tests.kit.control_plane import RUNS, Api, ControlPlane, find_assets
from tests.kit.operator_process import Operator
from tests.kit.toy_cluster import run_manifest
from tests.kit.waiting import until

JOBS = "/apis/batch/v1/namespaces/default/jobs"
PODS = "/api/v1/namespaces/default/pods"
CHART = Path(__file__).parents[3] / "charts/ippo-operator/values.yaml"
LIMIT = int(yaml.safe_load(CHART.read_text())["resources"]["limits"]["memory"].removesuffix("Mi"))
ROOM = 100
"""MiB that are left of the limit: what the kernel counts beside, and another machine."""
Object = dict[str, Any]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    assets = find_assets()
    if assets is None:
        pytest.skip("needs etcd and kube-apiserver in the folder that KUBEBUILDER_ASSETS names")
    with ControlPlane(assets, tmp_path_factory.mktemp("control-plane")) as control_plane:
        crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        assert control_plane.api.create(crds, custom_resource_definition()).code == 201
        until(lambda: control_plane.api.get(RUNS.format("default")).code == 200, "the CRD is served")
        yield control_plane


def run(name: str, **spec: Any) -> Object:
    return run_manifest(**spec) | {"metadata": {"name": name, "namespace": "default"}}


def create(api: Api, path: str, objects: list[Object]) -> None:
    with ThreadPoolExecutor(4) as some:
        for answer in some.map(lambda body: api.create(path, body), objects):
            assert answer.code == 201, answer.message[:300]


def suspended_jobs(uid: str, count: int, size: int) -> list[Object]:
    """Of somebody who knows the run's labels; large in what they run, in annotations or in labels."""
    made = []
    for number in range(count):
        labels = {"ippo.dev/run": "small", "ippo.dev/run-uid": uid}
        metadata: Object = {"name": f"large-{number}", "labels": labels}
        container: Object = {"name": "c", "image": "i"}
        if number % 10 == 0:
            labels |= {f"label-{n}": "x" * 50 for n in range(size // 140)}  # managedFields name them too
        else:
            metadata["annotations"] = {"note": "x" * min(size // 2, 200_000)}
            container["args"] = ["x" * (size - min(size // 2, 200_000))]
        pods = {"spec": {"restartPolicy": "Never", "containers": [container]}}
        spec = {"suspend": True, "template": pods}
        made.append({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec})
    return made


def large_run(name: str, size: int) -> Object:
    """As large as the schema allows: variables of each stage."""
    stages = ("common", "warmStart", "collect", "fitQ", "improve", "evaluate")
    value, each = "x" * 4000, max(1, min(60, size // len(stages) // 4000))
    env = [{"name": f"V{number}", "value": value} for number in range(each)]
    return run(name, pods={stage: {"env": env} for stage in stages}, suspend=True)


class Watched:
    """An operator's process and the most memory that it ever had."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        flags = ("--lease-namespace", "default", "--resync-seconds", "5")
        self.operator = Operator(plane, folder, *flags)
        self.api = plane.api

    def begin(self) -> None:
        self.operator.start()
        self.operator.wait_ready()

    def peak(self) -> int:
        """MiB. Fails where the process ended."""
        process = self.operator._process
        assert process is not None
        assert process.poll() is None, self.operator.log.read_text()[-3000:]
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) // 1024
        raise AssertionError("no VmHWM")

    def goes_on(self, name: str) -> None:
        """A new run of somebody else gets its job, and gives it up again."""
        assert self.api.create(RUNS.format("default"), run(name)).code == 201
        mine = f"{JOBS}?labelSelector=ippo.dev/run={name}"
        until(lambda: bool(self.api.get(mine).body["items"]), f"{name} has a job", 90)

    def passes(self) -> float:
        code, text = self.operator.probe("/metrics")
        assert code == 200
        return float(
            next(line for line in text.splitlines() if line.startswith("ippo_reconcile_seconds_count")).split()[1]
        )

    def a_round(self) -> None:
        """Every run is looked at once more."""
        runs, before = len(self.api.get(RUNS.format("default")).body["items"]), self.passes()
        until(lambda: self.passes() >= before + runs, "all runs are looked at", 120, every=0.5)


def tenants(plane: ControlPlane, folder: Path, jobs: int, runs: int, size: int) -> int:
    """The most memory of an operator that meets them one by one, and of one that starts among them."""
    api, watched = plane.api, Watched(plane, folder)
    try:
        watched.begin()
        watched.goes_on("small")
        uid = api.get(f"{RUNS.format('default')}/small").body["metadata"]["uid"]
        create(api, JOBS, suspended_jobs(uid, jobs, size))
        create(api, RUNS.format("default"), [large_run(f"large-{number}", size) for number in range(runs)])
        watched.a_round()
        before = watched.peak()
        watched.operator.kill()
        watched.begin()
        watched.goes_on("late")
        watched.a_round()
        told = {
            c["type"]: c["reason"] for c in api.get(f"{RUNS.format('default')}/large-0").body["status"]["conditions"]
        }
        assert told["Suspended"] == "Suspended"
        return max(before, watched.peak())
    finally:
        watched.operator.kill()
        for path in (JOBS, RUNS.format("default")):
            api.request("DELETE", f"{path}?propagationPolicy=Background&gracePeriodSeconds=0")
        until(lambda: api.get(RUNS.format("default")).body["items"] == [], "all runs are gone", 60)


def test_tenants_large_objects_take_no_memory(plane: ControlPlane, tmp_path: Path) -> None:
    """Whole objects in memory come to 230 MiB here, and to more than the limit in the next test."""
    assert tenants(plane, tmp_path, jobs=20, runs=20, size=1_200_000) < 160


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_large_jobs_and_runs_do_not_fill_the_charts_limit(plane: ControlPlane, tmp_path: Path) -> None:
    assert tenants(plane, tmp_path, jobs=100, runs=110, size=1_200_000) < LIMIT - ROOM


def with_client(plane: ControlPlane, scene: Any) -> None:
    async def whole() -> None:
        flags = Flags(kubeconfig=str(plane.kubeconfig))
        async with KubernetesTransport(kubeconfig.load(flags), lambda: kubeconfig.load(flags)) as transport:
            await scene(Client(transport))

    asyncio.run(asyncio.wait_for(whole(), 60))


@pytest.mark.parametrize("character", ["x", "é", "€", "😀"])
def test_the_longest_event_is_taken_whatever_its_script_and_becomes_a_series(
    plane: ControlPlane, character: str
) -> None:
    name = f"told-{ord(character)}"
    made = plane.api.create(RUNS.format("default"), run(name, suspend=True)).body

    async def scene(client: Client) -> None:
        writer = EventWriter(client, "test")
        for _ in range(3):
            await writer.write(made, Event("Warning", "StatusNotWritten", character * 2000))

    with_client(plane, scene)
    items = plane.api.get("/apis/events.k8s.io/v1/namespaces/default/events").body["items"]
    [event] = [item for item in items if item["regarding"]["name"] == name]
    assert MAX_MESSAGE - 8 <= len(event["note"].encode()) <= MAX_MESSAGE
    assert event["series"]["count"] == 2


def test_a_status_is_written_without_the_run(plane: ControlPlane) -> None:
    """Nothing else changes, nor who owns it; and only the version that was read is written."""
    labels = {f"label-{number}": "x" for number in range(500)}
    body = run("kept", suspend=True)
    item = plane.api.create(RUNS.format("default"), body | {"metadata": body["metadata"] | {"labels": labels}}).body
    without_spec = {name: item[name] for name in ("apiVersion", "kind", "metadata")}

    async def scene(client: Client) -> None:
        status = {"iteration": 3, "progress": "0/1"}
        answer = await client.replace(RUN_KIND, "default", "kept", without_spec | {"status": status}, "status")
        assert "spec" not in answer
        with pytest.raises(ConflictError):
            await client.replace(RUN_KIND, "default", "kept", without_spec | {"status": status}, "status")

    with_client(plane, scene)
    after = plane.api.get(f"{RUNS.format('default')}/kept").body
    assert (after["spec"], after["metadata"]["labels"]) == (item["spec"], labels)
    assert after["status"]["iteration"] == 3
    owned = [fields for fields in after["metadata"]["managedFields"] if "subresource" not in fields]
    assert owned == item["metadata"]["managedFields"]
