"""What kwok cannot do: end a stage's pod with the result that its spec asks for. It also notes when what happened."""

import asyncio
import random
import time
from dataclasses import dataclass, field
from itertools import pairwise

from ippo_trainer.contract.spec import StageSpec

from tests.kit.planner_world import good_result
from tests.kit.stage_ends import terminated

from .cluster import Cluster, Object

RUN = "ippo.dev/run"
SELECT = "labelSelector=ippo.dev/run-uid"


@dataclass
class Timeline:
    """Seconds on this process's clock."""

    made: dict[str, float] = field(default_factory=dict)
    """By Job: when a watch first told of it."""
    pod_ended: dict[str, float] = field(default_factory=dict)
    """By Job: when the API server had accepted the end of its last pod."""
    done: dict[str, float] = field(default_factory=dict)
    """By Job: when a watch told that it is over."""
    jobs_of: dict[str, list[str]] = field(default_factory=dict)
    """By run: its Jobs in the order in which they appeared."""

    def steps(self, since: dict[str, float]) -> list[float]:
        """From a moment in the life of each Job to the next Job of the same run."""
        return [
            self.made[after] - since[before]
            for names in self.jobs_of.values()
            for before, after in pairwise(names)
            if before in since
        ]


class Kubelet:
    """Ends every running pod of a stage after a while.

    Args:
        cluster: whose pods they are.
        mean: seconds that a stage takes on average; between half and one and a half of it.
        seed: of those times.
    """

    def __init__(self, cluster: Cluster, mean: float, seed: int = 0) -> None:
        self._cluster = cluster
        self._mean = mean
        self._random = random.Random(seed)
        self.timeline = Timeline()
        self._begun: set[str] = set()

    async def run(self) -> None:
        """Until it is cancelled; ends with the first error."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_jobs())
            group.create_task(self._watch_pods(group))

    async def _watch_jobs(self) -> None:
        line = self.timeline
        while True:
            async for _, job in self._cluster.watch("/apis/batch/v1/jobs", SELECT):
                now, name = time.monotonic(), job["metadata"]["name"]
                if name not in line.made:
                    line.made[name] = now
                    line.jobs_of.setdefault(job["metadata"]["labels"][RUN], []).append(name)
                if name not in line.done and _over(job):
                    line.done[name] = now

    async def _watch_pods(self, group: asyncio.TaskGroup) -> None:
        while True:
            running = f"{SELECT}&fieldSelector=status.phase%3DRunning"
            async for kind, pod in self._cluster.watch("/api/v1/pods", running):
                uid = pod["metadata"]["uid"]
                if kind != "DELETED" and uid not in self._begun:
                    self._begun.add(uid)
                    group.create_task(self._end(pod))

    async def _end(self, pod: Object) -> None:
        place, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        job = pod["metadata"]["ownerReferences"][0]["name"]
        config = await self._cluster.get(f"/api/v1/namespaces/{place}/configmaps/{job}")
        result = good_result(StageSpec.model_validate_json(config["data"]["spec.json"])).to_message().decode()
        await asyncio.sleep(self._random.uniform(0.5, 1.5) * self._mean)
        [container] = pod["status"]["containerStatuses"]
        status = {
            "phase": "Succeeded",
            "containerStatuses": [container | {"ready": False, "state": terminated(0, result)}],
        }
        path = f"/api/v1/namespaces/{place}/pods/{name}/status"
        code, answer = await self._cluster.send("PATCH", path, {"status": status})
        assert code in {200, 404}, answer  # 404: its Job is gone
        self.timeline.pod_ended[job] = time.monotonic()


def _over(job: Object) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(c["type"] in {"Complete", "Failed"} and c["status"] == "True" for c in conditions)
