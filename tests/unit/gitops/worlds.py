"""Runs as the API server shows them, in every state that the real planner can bring them to."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from ippo_operator.api.crd import custom_resource_definition
from ippo_operator.api.reasons import Reason
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.status import Waiting
from ippo_operator.cluster import run_status
from ippo_operator.plan.types import JobFailure, JobIntent, ObservedServing
from ippo_trainer.contract.spec import Decision, StageResult
from ippo_trainer.contract.spec import Outcome as Verdict

from tests.kit.live_world import LiveCluster, make_live_run
from tests.kit.planner_world import START, Cluster, Outcome, changed, good_result, make_run

Object = dict[str, Any]
QUEUE: Object = {"localQueueName": "team"}


def shown(run: IterativePPORun, **metadata: Any) -> Object:
    """The run as `kubectl get -o json` prints it; one without a status has the schema's default."""
    whole: Object = run.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"status": True})
    whole["metadata"] |= {"namespace": "team", **metadata}
    if run.status is None:
        whole["status"] = dict(_first_status())
    else:
        whole["status"] = json.loads(run.status.model_dump_json(by_alias=True, exclude_none=True))
    return whole


@functools.cache
def _first_status() -> Object:
    [version] = custom_resource_definition()["spec"]["versions"]
    status: Object = version["schema"]["openAPIV3Schema"]["properties"]["status"]["default"]
    return status


class Recorded(Cluster):
    """Keeps what every pass left for others to see; servers that are not ready can say why."""

    def __init__(self, run: IterativePPORun) -> None:
        super().__init__(run)
        self.seen: list[Object] = [shown(run)]
        self.blocked: Waiting | None = None
        """Why there can be no Deployment."""
        self.trouble: Waiting | None = None
        """Why servers do not get ready."""
        self.unreached: Waiting | None = None
        """Why servers that are ready get no requests."""
        self.late = False
        """Whether the Deployment controller gave up on servers that are not ready."""

    def observed_servers(self) -> ObservedServing:
        servers = super().observed_servers()
        if self.blocked is not None:
            return ObservedServing(servers.settings, blocked=self.blocked)
        if servers.available:
            return dataclasses.replace(servers, unreached=self.unreached)
        gave_up_at = self.now if self.late else None
        return dataclasses.replace(servers, trouble=self.trouble, exceeded=self.late, progressed_at=gave_up_at)

    def step(self, die_after: int = 9) -> Any:
        plan = super().step(die_after)
        self.seen.append(shown(self.run))
        return plan

    @property
    def now_shown(self) -> Object:
        return shown(self.run)


def waits_for_customers() -> LiveCluster:
    """The first iteration waits for live conversations."""
    world = LiveCluster(make_live_run())
    world.go()
    return world


def without_gateway(reason: Reason = Reason.GATEWAY_UNREACHABLE) -> LiveCluster:
    """It waits for them, and the gateway does not answer, or is not there."""
    world = LiveCluster(make_live_run())
    world.answers = False
    world.trouble = Waiting(reason=reason, message="gateway shop-gateway is not ready")
    world.go()
    return world


def under_test(outcome: Verdict | None = None, trouble: Reason | None = None) -> LiveCluster:
    """The first candidate is under test, or its test has ended."""
    world = LiveCluster(make_live_run())
    world.trouble = Waiting(reason=trouble, message="a container failed") if trouble is not None else None
    world.until_canary()
    if outcome is not None:
        world.shop.outcome = outcome
        world.later()
    return world


def begun(**spec: Any) -> Recorded:
    """The first stage's job was just created."""
    world = Recorded(make_run(**spec))
    world.step()
    return world


def driven(outcome: Callable[[JobIntent], Outcome] | None = None, **spec: Any) -> Recorded:
    """A run that went on until nothing runs and nothing is waited for."""
    world = Recorded(make_run(**spec))
    world.drive(outcome or (lambda intent: good_result(intent.spec)))
    return world


def edited(world: Recorded, **spec: Any) -> Recorded:
    """The spec was changed and the operator has not seen it."""
    world.run = changed(world.run, **spec)
    return world


def seen(world: Recorded, passes: int = 1) -> Recorded:
    """After so many more passes."""
    for _ in range(passes):
        world.step()
    return world


def waiting_for(reason: Reason) -> Recorded:
    """The first stage's job is there but does not run."""
    world = begun(queue=QUEUE)
    [(name, job)] = world.jobs.items()
    world.jobs[name] = dataclasses.replace(job, waiting=Waiting(reason=reason, message=f"{name} waits"))
    return seen(world)


def refused() -> Recorded:
    """The API server does not let the first stage's job be created."""
    world = begun()
    [(name, job)] = world.jobs.items()
    waits = Waiting(reason=Reason.CHILD_REFUSED, message=f"the API server refuses to create {name}")
    world.jobs[name] = dataclasses.replace(job, state="Refused", waiting=waits)
    return seen(world)


def ended_once(outcome: Outcome, **spec: Any) -> Recorded:
    """The first attempt ended like that, and the operator saw it."""
    world = seen(begun(**spec))
    intent = world.running()
    assert intent is not None
    world.end(intent, outcome)
    return seen(world)


def stage_ends(stage: str, **changes: Any) -> Callable[[JobIntent], Outcome]:
    """All goes well, but one stage's results are other ones."""
    return lambda intent: good_result(intent.spec, **(changes if intent.spec.stage == stage else {}))


def fails(stage: str, code: int, message: str = "") -> Callable[[JobIntent], Outcome]:
    """All goes well but one stage, always."""
    failure = JobFailure(code, message)
    return lambda intent: failure if intent.spec.stage == stage else good_result(intent.spec)


def gate(outcome: str) -> Callable[[JobIntent], Outcome]:
    """The gate's answer to every candidate."""
    return stage_ends("evaluate", decision=Decision(outcome=outcome, reason="as the test says"))


def without_result(intent: JobIntent) -> Outcome:
    """Ends well, with a result of other inputs."""
    result = good_result(intent.spec)
    assert isinstance(result, StageResult)
    return result.model_copy(update={"input_digest": "sha256:" + "1" * 64})


def of_another() -> Recorded:
    """A job with the name of ours was made from other inputs."""
    world = begun()
    [(name, job)] = world.jobs.items()
    world.jobs[name] = dataclasses.replace(job, input_digest="sha256:" + "1" * 64)
    return seen(world)


def suspending() -> Recorded:
    """The running stage was told to save its checkpoint and is still there."""
    world = seen(begun())
    jobs = dict(world.jobs)
    edited(world, suspend=True).step()
    world.jobs.update(jobs)
    return seen(world)


def awaiting(**spec: Any) -> Recorded:
    """The first candidate waits for a human."""
    return driven(iterations={"max": 2}, promotion={"mode": "Manual"}, **spec)


def answered(**answer: int) -> Recorded:
    """A human answered and the operator has not seen it."""
    return edited(awaiting(), promotion={"mode": "Manual", **answer})


def serving(**serve: Any) -> Recorded:
    """A run that is done and serves its policy."""
    return driven(iterations={"max": 1}, serve={"replicas": 1, **serve})


def set_up_anew(**serve: Any) -> Recorded:
    """The servers of a run that is done were given other settings, with which they do not get ready."""
    world = serving(**serve)
    assert world.servers is not None
    before = world.servers.settings
    world.works = lambda servers: servers.settings == before
    return seen(edited(world, pods={"serve": {"sharedMemory": "1Gi"}}), 2)


def crashing() -> Recorded:
    """The same, and it is known why."""
    world = set_up_anew()
    world.trouble = Waiting(reason=Reason.SERVER_FAILED, message="the server ends again and again")
    return seen(world)


def unreached() -> Recorded:
    """The servers of a run that is done are ready, but its Service does not lead to them."""
    world = serving()
    world.unreached = Waiting(
        reason=Reason.NOT_REACHED, message="Service small does not reach 1 available: it has no ready endpoint"
    )
    seen(world, 2)
    world.now += timedelta(minutes=1)
    return seen(world)


def late(**serve: Any) -> Recorded:
    """The same, until the Deployment controller gave up on them."""
    world = set_up_anew(**serve)
    world.late = True
    seen(world)
    world.late = False
    world.drive()
    return world


def without_server_image() -> Recorded:
    """A run that serves, where nobody named an image with the server."""
    world = Recorded(make_run(iterations={"max": 1}, serve={"replicas": 1}))
    world.blocked = Waiting(reason=Reason.NO_SERVER_IMAGE, message="spec.pods.serve.image is missing")
    return world


def at_work_without_server_image() -> Recorded:
    """The warm start is done, so there is a policy to serve."""
    world = seen(without_server_image(), 2)
    intent = world.running()
    assert intent is not None
    world.end(intent, good_result(intent.spec))
    return seen(world)


def pending_too_long() -> Recorded:
    """The first stage's pods found no node for longer than the spec allows."""
    world = begun(pods={"common": {"pendingDeadlineSeconds": 60}})
    [(name, job)] = world.jobs.items()
    waits = Waiting(reason=Reason.UNSCHEDULABLE, message=f"no node takes the pods of {name}")
    world.jobs[name] = dataclasses.replace(job, waiting=waits, pending_since=START)
    world.now += timedelta(seconds=61)
    jobs = dict(world.jobs)
    world.step()
    world.jobs.update(jobs)
    return seen(world)


def broken() -> Recorded:
    """A spec that the schema let pass but a rule of the models refuses, as under an older schema."""
    world = Recorded(make_run())
    world.run = world.run.model_copy(update={"spec": world.run.spec.model_copy(update={"warm_start": None})})
    return seen(world)


def unreadable(world: Recorded) -> Object:
    """The run with a spec that this version of the operator cannot read, after a pass over it."""
    return reported(world, "spec.device is tpu", Reason.INVALID_SPEC)


def reported(world: Recorded, problem: str, reason: Reason) -> Object:
    """The run after a pass that could not work on it."""
    raw = world.now_shown
    raw["metadata"]["generation"] += 1
    stored = json.loads(json.dumps(raw))
    status = run_status.refused(stored, problem, START, reason)
    assert status is not None
    return stored | {"status": status}


def everything_seen(worlds: Iterator[Recorded]) -> list[Object]:
    """Whatever anybody could have read while these runs went on, each once."""
    texts = {json.dumps(item, sort_keys=True): item for world in worlds for item in world.seen}
    return list(texts.values())
