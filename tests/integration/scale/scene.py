"""Many runs at once, and what they cost: the figures that issue and documentation quote."""

import asyncio
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ippo_operator.api.crd import custom_resource_definition

from tests.kit.control_plane import RUNS
from tests.kit.operator_process import Operator
from tests.kit.toy_cluster import run_manifest

from .cluster import Cluster, Object
from .kubelet import Kubelet, Timeline

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
COLLECT = {"simulate": {"environment": {"name": "sr-funnel"}, "conversations": 100, "parallelism": 1}}
STAGES = 5
"""Of a run of one iteration."""
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass
class Figures:
    """All times in seconds, memory in MB."""

    runs: int
    jobs: int = 0
    wrong: list[str] = field(default_factory=list)
    """Runs that did not end as they should, with what they said."""
    took: float = 0.0
    after_job: list[float] = field(default_factory=list)
    """From a Job's end to the run's next Job, as a watch tells both: what the operator is in charge of."""
    after_pod: list[float] = field(default_factory=list)
    """From a pod's end to the run's next Job: with the Job controller's part."""
    first: list[float] = field(default_factory=list)
    """From the creation of a run to its first Job, where all runs are created at once."""
    write: list[float] = field(default_factory=list)
    """Of the API server itself: a small write."""
    told: list[float] = field(default_factory=list)
    """Of the API server itself: from a small write's start until a watch tells of it."""
    memory_peak: float = 0.0
    memory_start: float = 0.0
    memory_rest: float = 0.0
    cpu: float = 0.0
    """Seconds of the operator's process."""
    requests: dict[str, float] = field(default_factory=dict)
    """Of the operator, the lease's left out, by method and kind."""
    idle: dict[str, float] = field(default_factory=dict)
    """Of a minute in which nothing happens."""
    load: list[float] = field(default_factory=list)
    """Load average of the machine."""
    samples: dict[str, float] = field(default_factory=dict)
    """The operator's metrics at the end."""

    @property
    def writes_per_stage(self) -> float:
        """API writes of the operator."""
        return sum(count for what, count in self.requests.items() if not what.startswith("GET")) / max(1, self.jobs)

    @property
    def reads_per_stage(self) -> float:
        """API reads of the operator, watches left out."""
        return sum(count for what, count in self.requests.items() if what.startswith("GET")) / max(1, self.jobs)


def share(values: list[float], part: float) -> float:
    """The value that this part of them does not exceed; nan without any."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


async def measure(
    kubeconfig: Path, folder: Path, runs: int, mean: float, idle: float = 60.0, limit: float = 1500.0
) -> Figures:
    """Creates runs of one iteration, waits until all have ended and looks at the rest afterwards.

    Args:
        kubeconfig: of a cluster as `cluster.HINT` describes.
        folder: for the operator's log.
        runs: how many.
        mean: seconds that a stage takes.
        idle: seconds to watch the operator when everything is done.
        limit: seconds after which runs that have not ended count as wrong.
    """
    namespace = f"scale-{os.getpid()}"
    async with Cluster(kubeconfig) as cluster:
        await _prepare(cluster, namespace)
        plane: Any = SimpleNamespace(kubeconfig=kubeconfig)
        operator = Operator(plane, folder, "--lease-name", namespace, "--lease-namespace", namespace)
        try:
            with operator:
                return await _Scene(cluster, operator, namespace, Figures(runs), mean).play(idle, limit)
        finally:
            await cluster.send("DELETE", f"/api/v1/namespaces/{namespace}")


async def _prepare(cluster: Cluster, namespace: str) -> None:
    nodes = (await cluster.get("/api/v1/nodes"))["items"]
    fake = [node for node in nodes if "kwok.x-k8s.io/node" in node["metadata"].get("annotations", {})]
    assert fake, "the cluster has no simulated nodes"
    await cluster.create(CRDS, custom_resource_definition())
    await cluster.create(
        "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    )
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
    while (await cluster.send("GET", path))[0] != 200 or (await cluster.send("GET", RUNS.format(namespace)))[0] != 200:
        await asyncio.sleep(0.1)


class _Scene:
    def __init__(self, cluster: Cluster, operator: Operator, namespace: str, figures: Figures, mean: float) -> None:
        self.cluster = cluster
        self.operator = operator
        self.namespace = namespace
        self.figures = figures
        self.kubelet = Kubelet(cluster, mean)
        self.created: dict[str, float] = {}

    async def play(self, idle: float, limit: float) -> Figures:
        await asyncio.to_thread(self.operator.wait_ready)
        self.figures.memory_start = self._memory("VmRSS")
        helpers = [asyncio.create_task(loop) for loop in (self.kubelet.run(), self._probe(), self._sample())]
        try:
            began = time.monotonic()
            await self._create_runs()
            await self._until_ended(began + limit, helpers)
            self.figures.took = time.monotonic() - began
        finally:
            for helper in helpers[1:]:
                helper.cancel()
        await self._rest(idle)
        helpers[0].cancel()
        self._evaluate(self.kubelet.timeline)
        return self.figures

    async def _create_runs(self) -> None:
        gate = asyncio.Semaphore(8)
        spec = {"iterations": {"max": 1}, "collect": COLLECT}

        async def one(name: str) -> None:
            async with gate:
                await self.cluster.create(
                    RUNS.format(self.namespace), run_manifest(**spec) | {"metadata": {"name": name}}
                )
                self.created[name] = time.monotonic()

        await asyncio.gather(*(one(f"run-{number:04d}") for number in range(self.figures.runs)))

    async def _until_ended(self, deadline: float, helpers: list["asyncio.Task[None]"]) -> None:
        """Listens to the runs; lists nothing, the API server has enough to do."""
        open_runs = dict.fromkeys(self.created, "nothing yet")

        async def listen() -> None:
            while open_runs:
                async for kind, run in self.cluster.watch(RUNS.format(self.namespace), ""):
                    self._judge(kind, run, open_runs)
                    if not open_runs:
                        return

        listening = asyncio.create_task(listen())
        done, _ = await asyncio.wait(
            [listening, *helpers], timeout=deadline - time.monotonic(), return_when=asyncio.FIRST_COMPLETED
        )
        listening.cancel()
        for task in done:
            task.result()
        self.figures.wrong += [f"{name}: {state}" for name, state in open_runs.items()]

    def _judge(self, kind: str, run: Object, open_runs: dict[str, str]) -> None:
        name = run["metadata"]["name"]
        conditions = {c["type"]: c for c in run.get("status", {}).get("conditions", [])}
        if name not in open_runs or not conditions:
            return
        ready, stalled = conditions["Ready"], conditions["Stalled"]
        open_runs[name] = f"{ready['reason']} {ready['message']}"
        if ready["status"] == "True" or stalled["status"] == "True" or kind == "DELETED":
            if ready["status"] != "True" or run["status"]["progress"] != "1/1":
                self.figures.wrong.append(f"{name}: {kind} {open_runs[name]}")
            del open_runs[name]

    async def _probe(self) -> None:
        """How fast the API server is by itself meanwhile."""
        path, turn, waiting = f"/api/v1/namespaces/{self.namespace}/configmaps", 0, {}
        select = "fieldSelector=metadata.name%3Dprobe"

        async def listen() -> None:
            async for _, item in self.cluster.watch(path, select):
                began = waiting.pop(item["data"]["turn"], None)
                if began is not None:
                    self.figures.told.append(time.monotonic() - began)

        item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "probe"}, "data": {"turn": "0"}}
        await self.cluster.create(path, item)
        listening = asyncio.create_task(listen())
        try:
            while True:
                await asyncio.sleep(1.0)
                turn, began = turn + 1, time.monotonic()
                waiting[str(turn)] = began
                await self.cluster.send("PATCH", f"{path}/probe", {"data": {"turn": str(turn)}})
                self.figures.write.append(time.monotonic() - began)
        finally:
            listening.cancel()

    async def _sample(self) -> None:
        while True:
            self.figures.load.append(os.getloadavg()[0])
            await asyncio.sleep(5.0)

    async def _rest(self, idle: float) -> None:
        """What an operator costs whose runs are all done; its own lease and checks are left out."""
        await asyncio.sleep(5.0)
        before = await self._scrape()
        await asyncio.sleep(idle)
        after = await self._scrape()
        self.figures.samples = after
        self.figures.requests = _requests(before)
        self.figures.idle = {
            what: count - self.figures.requests.get(what, 0.0)
            for what, count in _requests(after).items()
            if count > self.figures.requests.get(what, 0.0)
        }
        self.figures.memory_peak, self.figures.memory_rest = self._memory("VmHWM"), self._memory("VmRSS")
        self.figures.cpu = self._cpu()

    async def _scrape(self) -> dict[str, float]:
        code, text = await asyncio.to_thread(self.operator.probe, "/metrics")
        assert code == 200, text
        return {f"{name}{{{labels}}}": float(value) for name, labels, value in _SAMPLE.findall(text)}

    def _evaluate(self, line: Timeline) -> None:
        figures = self.figures
        figures.after_job, figures.after_pod = line.steps(line.done), line.steps(line.pod_ended)
        figures.first = [
            line.made[line.jobs_of[name][0]] - at for name, at in self.created.items() if name in line.jobs_of
        ]
        figures.jobs = len(line.made)
        figures.wrong += [f"{name}: {len(jobs)} Jobs" for name, jobs in line.jobs_of.items() if len(jobs) != STAGES]

    def _process(self, what: str) -> str:
        """What Linux says about the operator's process."""
        assert self.operator._process is not None
        return Path(f"/proc/{self.operator._process.pid}/{what}").read_text()

    def _memory(self, field: str) -> float:
        for line in self._process("status").splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
        raise AssertionError(f"no {field}")

    def _cpu(self) -> float:
        fields = self._process("stat").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _requests(samples: Mapping[str, float]) -> dict[str, float]:
    counts: dict[str, float] = {}
    for name, value in samples.items():
        if not name.startswith("ippo_api_requests_total"):
            continue
        labels = dict(_LABEL.findall(name))
        if labels["resource"] != "leases":
            what = f"{labels['method']} {labels['resource']}"
            counts[what] = counts.get(what, 0.0) + value
    return counts
