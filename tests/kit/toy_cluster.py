"""Toy controllers and a kubelet on the fake API, and an operator that can be stepped, killed and started again."""

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from ippo_operator.cluster.client import Client, RetryPolicy
from ippo_operator.cluster.clock import ServerClock
from ippo_operator.cluster.reconcile import PassOutcome, Reconciler
from ippo_operator.manifests.platform import Platform
from ippo_trainer.contract.digests import digest_of
from ippo_trainer.contract.spec import StageResult, StageSpec

from tests.kit.fake_api import FakeApi, Object
from tests.kit.planner_world import START, good_result
from tests.kit.toy_volumes import ToyVolumes, is_put

PLATFORM = Platform(image="stages:test", serve_image="servers:test")
RUN: Object = {
    "apiVersion": "ippo.dev/v1alpha1",
    "kind": "IterativePPORun",
    "metadata": {"name": "small", "namespace": "team"},
    "spec": {
        "iterations": {"max": 1},
        "policy": {"base": "tiny:d32-l1"},
        "warmStart": {"demonstrations": 100},
        "collect": {"simulate": {"environment": {"name": "sr-funnel"}, "conversations": 100, "parallelism": 2}},
        "artifacts": {"s3": {"bucket": "artifacts"}},
    },
}
Ending = Callable[[StageSpec], StageResult | tuple[int, str]]
"""How a stage's process ends: well with a result, or with an exit code and a termination message."""


def run_manifest(**spec: Any) -> Object:
    """A run's manifest with some fields of its spec replaced."""
    return RUN | {"spec": RUN["spec"] | spec}


@dataclass
class ToyController:
    """Runs Jobs: one step starts pods, the next one ends them."""

    api: FakeApi
    ending: Ending = good_result
    ran: list[str] = field(default_factory=list)
    """Names of Jobs whose pods ran, once each."""
    serves: Callable[[Object], bool] = lambda _template: True
    """Whether servers of that pod template get ready."""
    connects: bool = True
    """Whether Services get endpoints."""

    def __post_init__(self) -> None:
        self.volumes = ToyVolumes(self.api, self.ran)

    def step(self) -> bool:
        """Whether anything changed."""
        changed = [self._look_at(job) for job in self.api.all("jobs") if not is_put(job)]
        changed += [self.volumes.step()]
        rolled = [item for item in self.api.all("deployments") if "template" in item["spec"]]
        changed += [roll_out(self.api, deployment, self.serves) for deployment in rolled]
        changed += [connect(self.api, service) for service in self.api.all("services") if self.connects]
        return any(changed)

    def _look_at(self, job: Object) -> bool:
        place, name = job["metadata"]["namespace"], job["metadata"]["name"]
        if "deletionTimestamp" in job["metadata"]:
            self.api.remove("jobs", place, name)
            return True
        if job["spec"].get("suspend") or (job.get("status") or {}).get("conditions"):
            return False
        pods = [pod for pod in self.api.all("pods") if pod["metadata"]["ownerReferences"][0]["uid"] == uid(job)]
        if not pods:
            self.ran.append(name)
            for index in range(job["spec"]["completions"]):
                self.api.put("pods", pod_of(job, index, {"phase": "Running"}))
            return True
        failed = [self._end(job, pod) for pod in pods]
        self.api.edit(
            "jobs", place, name, status={"conditions": [job_condition("Failed" if any(failed) else "Complete")]}
        )
        return True

    def _end(self, job: Object, pod: Object) -> bool:
        place = job["metadata"]["namespace"]
        config = self.api.objects["configmaps", place, job["metadata"]["name"]]
        ended = self.ending(StageSpec.model_validate_json(config["data"]["spec.json"]))
        code, message = (0, ended.to_message().decode()) if isinstance(ended, StageResult) else ended
        self.api.edit("pods", place, pod["metadata"]["name"], status=ended_status(code, message))
        return code != 0


def roll_out(api: FakeApi, deployment: Object, serves: Callable[[Object], bool]) -> bool:
    """One step of a Deployment controller; whether anything changed. Servers that work are ready one step later."""
    metadata, spec = deployment["metadata"], deployment["spec"]
    place, name, template = metadata["namespace"], metadata["name"], spec["template"]
    labels = template["metadata"]["labels"] | {"pod-template-hash": digest_of(template)[7:15]}
    own = f"{name}-{labels['pod-template-hash']}"
    sets = {item["metadata"]["name"]: item for item in api.all("replicasets")}
    replicas, before = spec.get("replicas", 1), deployment.get("status") or {}
    if own not in sets:
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": uid(deployment)}
        api.put(
            "replicasets",
            {
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "metadata": {
                    "name": own,
                    "namespace": place,
                    "labels": labels,
                    "ownerReferences": [owner | {"controller": True}],
                },
                "spec": {"template": {**template, "metadata": template["metadata"] | {"labels": labels}}},
            },
        )
    if before.get("observedGeneration") != metadata["generation"]:
        old = before.get("availableReplicas", 0)
        status = deployment_status(metadata["generation"], replicas, total=old + replicas, available=old)
    elif serves(template):
        status = deployment_status(metadata["generation"], replicas, total=replicas, available=replicas)
    else:
        return False
    if status == before:
        return False
    api.edit("deployments", place, name, status=status)
    return True


def connect(api: FakeApi, service: Object) -> bool:
    """One step of an EndpointSlice controller; whether anything changed."""
    metadata = service["metadata"]
    name, selector = metadata["name"], service["spec"].get("selector") or {}
    servers = api.objects.get(("deployments", metadata["namespace"], name))
    if not selector or servers is None or "template" not in servers["spec"]:
        return False
    fits = selector.items() <= servers["spec"]["template"]["metadata"]["labels"].items()
    ready = (servers.get("status") or {}).get("availableReplicas", 0) if fits else 0
    endpoints = endpoint_slice(service, ready)
    key = ("endpointslices", metadata["namespace"], endpoints["metadata"]["name"])
    if key in api.objects and api.objects[key]["endpoints"] == endpoints["endpoints"]:
        return False
    if key in api.objects:
        api.remove(*key)
    api.put("endpointslices", endpoints)
    return True


def endpoint_slice(service: Object, ready: int) -> Object:
    """Of a Service, with so many endpoints that are ready."""
    metadata = service["metadata"]
    owner = {"apiVersion": "v1", "kind": "Service", "name": metadata["name"], "uid": uid(service), "controller": True}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{metadata['name']}-{uid(service)[:8]}",
            "namespace": metadata["namespace"],
            "labels": {"kubernetes.io/service-name": metadata["name"]},
            "ownerReferences": [owner],
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [f"10.0.0.{n + 1}"], "conditions": {"ready": True}} for n in range(ready)],
        "ports": [{"name": "http", "port": 8000, "protocol": "TCP"}],
    }


def deployment_status(generation: int, updated: int, total: int, available: int, exceeded: str = "") -> Object:
    """Of a Deployment with so many servers of the newest template, of any, and of those that are ready.

    `exceeded` is the time at which its controller gave up.
    """
    reason = "ProgressDeadlineExceeded" if exceeded else "ReplicaSetUpdated"
    progressing = {"type": "Progressing", "status": "False" if exceeded else "True", "reason": reason}
    progressing |= {"lastUpdateTime": exceeded} if exceeded else {}
    words = "MinimumReplicasAvailable" if available else "MinimumReplicasUnavailable"
    ready = {"type": "Available", "status": "True" if available else "False", "reason": words}
    ready |= {"lastTransitionTime": "2026-01-31T11:00:00Z"}  # long ago
    return {
        "observedGeneration": generation,
        "replicas": total,
        "updatedReplicas": updated,
        "availableReplicas": available,
        "conditions": [progressing, ready],
    }


def uid(item: Object) -> str:
    """UID."""
    return str(item["metadata"]["uid"])


def job_condition(kind: str, **more: str) -> Object:
    """A Job's condition that is True."""
    return {"type": kind, "status": "True", "lastTransitionTime": "2026-01-31T12:00:00Z"} | more


def pod_of(job: Object, index: int, status: Object) -> Object:
    """A pod as the Job controller makes it."""
    owner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": job["metadata"]["name"],
        "uid": uid(job),
        "controller": True,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{job['metadata']['name']}-{index}",
            "namespace": job["metadata"]["namespace"],
            "labels": job["spec"]["template"]["metadata"]["labels"]
            | {"batch.kubernetes.io/controller-uid": uid(job), "batch.kubernetes.io/job-name": job["metadata"]["name"]},
            "ownerReferences": [owner],
        },
        "status": status,
    }


def ended_status(code: int, message: str, reason: str = "", finished: str = "2026-01-31T12:00:00Z") -> Object:
    """A pod's status after its stage container ended."""
    terminated = {"exitCode": code, "message": message, "finishedAt": finished} | ({"reason": reason} if reason else {})
    return {
        "phase": "Failed" if code else "Succeeded",
        "containerStatuses": [{"name": "stage", "state": {"terminated": terminated}}],
    }


_OF_THREAD = threading.local()


def _run(coroutine: Coroutine[Any, Any, PassOutcome]) -> PassOutcome:
    """On one loop for all passes of a thread: to make one for each, and to mind Ctrl-C, takes longer than a pass."""
    if not hasattr(_OF_THREAD, "loop"):
        _OF_THREAD.loop = asyncio.new_event_loop()
    outcome: PassOutcome = _OF_THREAD.loop.run_until_complete(coroutine)
    return outcome


class ToyOperator:
    """One operator process on the fake API; a new instance is a restarted process."""

    def __init__(self, api: FakeApi, fence: Callable[[], None] = lambda: None) -> None:
        self.api = api
        self.now: datetime = START
        self.skew = timedelta()
        """How far off its wall clock is; `now` is when things really happen."""
        self.slept: list[float] = []
        api.clock = api.clock or (lambda: self.now)
        self.patience = 1000.0
        """Waits that are longer are not waited for: cleanup comes much later than anything else."""
        steady = lambda: (self.now - START).total_seconds()  # noqa: E731
        clock = ServerClock(steady, own=lambda: self.now + self.skew)
        self.client = Client(api, fence, RetryPolicy(attempts=3), sleep=self._sleep, clock=clock)
        self.reconciler = Reconciler(self.client, PLATFORM, "test", steady=steady)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def reconcile(self, name: str = "small", namespace: str = "team") -> PassOutcome:
        """One pass."""
        return _run(self.reconciler.reconcile(namespace, name))

    def settle(self, limit: int = 50) -> PassOutcome:
        """Passes until one changes nothing."""
        for _ in range(limit):
            before = newest(self.api)
            outcome = self.reconcile()
            if newest(self.api) == before and not outcome.again:
                return outcome
        raise AssertionError("the operator does not come to rest")

    def rest(self, controller: ToyController, limit: int = 60) -> None:
        """Goes on until neither the operator nor the controller changes anything, while no time passes."""
        for _ in range(limit):
            self.settle()
            if not controller.step():
                return
        raise AssertionError("the run does not come to rest")

    def finish(self, controller: ToyController, limit: int = 2000) -> None:
        """Goes on until neither the operator nor the controller has anything to do."""
        for _ in range(limit):
            outcome = self.settle()
            if controller.step():
                continue
            if outcome.requeue_after is None or outcome.requeue_after > self.patience:
                return
            self.now += timedelta(seconds=outcome.requeue_after)
        raise AssertionError("the run does not come to rest")


def newest(api: FakeApi) -> int:
    """Rises with every change of anything."""
    return max((int(item["metadata"]["resourceVersion"]) for item in api.objects.values()), default=0) + len(
        api.objects
    )


def the_run(api: FakeApi, name: str = "small") -> Object:
    """The run as it is."""
    return api.objects["iterativepporuns", "team", name]


def status_of(api: FakeApi, name: str = "small") -> Object:
    """Its status."""
    status: Object = the_run(api, name).get("status") or {}
    return status


def condition(api: FakeApi, kind: str, name: str = "small") -> Object:
    """One of its conditions."""
    return next(c for c in status_of(api, name)["conditions"] if c["type"] == kind)


def attempts(api: FakeApi) -> list[str]:
    """Names of all Jobs ever created."""
    return [name for kind, _, name in api.created if kind == "jobs"]


def spec_of(api: FakeApi, job: str) -> StageSpec:
    """The stage spec that a Job reads."""
    return StageSpec.model_validate(
        json.loads(api.objects["configmaps", "team", job]["data"]["spec.json"]), strict=False
    )


def begin(ending: Ending = good_result, **spec: Any) -> tuple[FakeApi, ToyOperator, ToyController]:
    """A cluster with a run that nobody looked at yet, its operator, and what carries out its Jobs."""
    api = FakeApi()
    api.put("iterativepporuns", run_manifest(**spec))
    return api, ToyOperator(api), ToyController(api, ending)


def edit(api: FakeApi, **spec: Any) -> None:
    """Somebody replaces fields of the run's spec."""
    api.edit("iterativepporuns", "team", "small", spec=the_run(api)["spec"] | spec)


def stands(api: FakeApi, kind: str = "Succeeded") -> tuple[str, str]:
    """Status and reason of one of the run's conditions."""
    entry = condition(api, kind)
    return entry["status"], entry["reason"]


def complain(api: FakeApi, text: str) -> None:
    """As the Job controller does where the only Job gets no pod: the newest event says why."""
    [job] = api.all("jobs")
    about = {"uid": job["metadata"]["uid"]}
    api.objects.pop(("events", "team", "complaint"), None)
    event = {"metadata": {"name": "complaint", "namespace": "team"}, "type": "Warning", "reason": "FailedCreate"}
    api.put("events", event | {"involvedObject": about, "message": text})
