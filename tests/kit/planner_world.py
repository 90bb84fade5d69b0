"""Runs and a simulated world for the planner's tests: jobs that are made, run and end as a test decides."""

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from ippo_operator.api.load import parse_run
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.status import RunStatus
from ippo_operator.cluster.servers import Stopwatch
from ippo_operator.plan.planner import plan
from ippo_operator.plan.types import JobFailure, JobIntent, ObservedJob, ObservedServing, Plan
from ippo_trainer.contract.digests import digest_of
from ippo_trainer.contract.spec import ArtifactRef, Decision, Shard, StageResult, StageSpec, StoreLocation
from ippo_trainer.contract.stages import BY_NAME

START = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
KEY = ("team", "small")
STORE = StoreLocation(directory="/nowhere")


def make_run(**spec: Any) -> IterativePPORun:
    """A valid run with some fields of its spec replaced."""
    whole: dict[str, Any] = {
        "iterations": {"max": 3},
        "policy": {"base": "tiny:d32-l1"},
        "warmStart": {"demonstrations": 100},
        "collect": {"simulate": {"environment": {"name": "sr-funnel"}, "conversations": 100, "parallelism": 2}},
    }
    whole.update(spec)
    run = parse_run(
        {"apiVersion": "ippo.dev/v1alpha1", "kind": "IterativePPORun", "metadata": {"name": "small"}, "spec": whole}
    )
    return run.model_copy(update={"metadata": run.metadata.model_copy(update={"uid": "4f1c"})})


def changed(run: IterativePPORun, **spec: Any) -> IterativePPORun:
    """The run after its spec was edited, as the API server would hand it over."""
    whole = run.spec.model_dump(mode="json", by_alias=True, exclude_none=True) | spec
    edited = make_run(**whole)
    metadata = run.metadata.model_copy(update={"generation": run.metadata.generation + 1})
    return edited.model_copy(update={"metadata": metadata, "status": run.status})


def good_result(spec: StageSpec, **changes: Any) -> StageResult:
    """What a stage that went well hands back; its artifact depends on its inputs alone."""
    name = BY_NAME[spec.stage].artifact
    ref = ArtifactRef(key=f"iterations/{spec.iteration:04d}/{name}", digest=digest_of([spec.input_digest(), name]))
    fields: dict[str, Any] = {
        "stage": spec.stage,
        "iteration": spec.iteration,
        "input_digest": spec.input_digest(),
        "artifacts": {name: ref},
    }
    if spec.stage == "collect":
        fields["shard"] = Shard(index=0, count=2, complete=True)
    if spec.stage == "fit-q":
        fields["informative"] = True
    if spec.stage == "evaluate":
        fields["decision"] = Decision(outcome="Promote", reason="better")
        fields["metrics"] = {"value": 0.1 * spec.iteration, "success": 0.12 * spec.iteration}
    return StageResult(**(fields | changes))


def reread(status: RunStatus) -> RunStatus:
    """The status as the next pass finds it in the API server or on disk."""
    return RunStatus.model_validate_json(status.model_dump_json(by_alias=True, exclude_none=True))


Outcome = StageResult | JobFailure | None
"""How a job ends; None: it is lost without a trace."""


@dataclasses.dataclass
class Servers:
    """A Deployment: what its pod template is made of, and whether its servers are ready."""

    policy: str
    settings: str
    ready: bool = False


class Cluster:
    """Carries plans out as an adapter does, and counts what was asked for."""

    def __init__(self, run: IterativePPORun) -> None:
        self.run = run
        self.now = START
        self.jobs: dict[str, ObservedJob] = {}
        self.created: list[JobIntent] = []
        self.events: list[str] = []
        self.servers: Servers | None = None
        self.stopwatch = Stopwatch(lambda: (self.now - START).total_seconds())
        self.known: set[tuple[str, str]] = set()
        """Pod templates of servers that the Deployment still knows."""
        self.served: list[str] = []
        """Every policy that the Deployment was ever asked to serve."""
        self.works: Callable[[Servers], bool] = lambda _servers: True
        """Whether such servers ever get ready."""

    def plan(self) -> Plan:
        seen, before = self.observed_servers(), self.run.status.serving if self.run.status is not None else None
        seen = dataclasses.replace(seen, watched=self.stopwatch.seconds(KEY, before, seen))
        return plan(self.run, tuple(self.jobs.values()), self.now, STORE, seen)

    def observed_servers(self) -> ObservedServing:
        settings = digest_of(self.run.spec.pods.serve.model_dump(mode="json"))
        if self.servers is None:
            return ObservedServing(settings)
        return ObservedServing(
            settings,
            exists=True,
            as_asked=True,
            policy=self.servers.policy,
            template=self.servers.settings,
            fresh=True,
            replicas=1,
            total=1,
            updated=1,
            available=int(self.servers.ready),
            restorable=frozenset(self.known),
        )

    def serve(self, plan: Plan) -> None:
        """Makes the Deployment what it should be."""
        if plan.unserve:
            self.lose_servers()
        if plan.serve is not None:
            target = (plan.serve.digest, plan.serve.settings)
            if self.servers is None or (self.servers.policy, self.servers.settings) != target:
                self.servers = Servers(*target)
                self.known.add(target)
                self.served.append(plan.serve.digest)

    def lose_servers(self) -> None:
        """Somebody deletes the Deployment, and its history with it."""
        self.servers = None
        self.known.clear()

    def wake_servers(self) -> bool:
        """Servers that work get ready; whether any did."""
        if self.servers is None or self.servers.ready or not self.works(self.servers):
            return False
        self.servers.ready = True
        return True

    def step(self, die_after: int = 9) -> Plan:
        """One pass: plan, write the status, create, delete; the adapter may die after so many of its writes."""
        plan = self.plan()
        self.stopwatch.look(KEY, plan.status.serving, self.observed_servers())
        if die_after < 1:
            return plan
        self.run = self.run.model_copy(update={"status": reread(plan.status)})
        if die_after < 2:
            return plan
        for intent in plan.creates:
            assert plan.status.active is not None
            assert plan.status.active.job_name == intent.name
            if intent.name not in self.jobs:
                self.created.append(intent)
                self.jobs[intent.name] = ObservedJob(intent.name, intent.spec.input_digest(), "Running")
        for name in plan.deletes:
            self.jobs.pop(name, None)
        self.serve(plan)
        self.events += [str(event.reason) for event in plan.events]
        return plan

    def running(self) -> JobIntent | None:
        """The job that runs."""
        names = [name for name, job in self.jobs.items() if job.state == "Running"]
        assert len(names) <= 1, f"two attempts at once: {names}"
        return next((intent for intent in self.created if intent.name in names), None)

    def end(self, intent: JobIntent, outcome: Outcome) -> None:
        """Ends a running job."""
        job = self.jobs[intent.name]
        if outcome is None:
            del self.jobs[intent.name]
        elif isinstance(outcome, StageResult):
            self.jobs[intent.name] = dataclasses.replace(job, state="Succeeded", results=(outcome,))
        else:
            self.jobs[intent.name] = dataclasses.replace(job, state="Failed", failure=outcome)

    def drive(self, outcome: Callable[[JobIntent], Outcome] = lambda intent: good_result(intent.spec)) -> None:
        """Goes on until nothing runs and nothing is waited for."""
        for _ in range(5000):
            plan = self.step()
            running = self.running()
            if running is not None:
                self.step()
                self.now += timedelta(seconds=7)
                self.end(running, outcome(running))
            elif self.wake_servers():
                continue
            elif plan.requeue_after is not None:
                self.now += timedelta(seconds=plan.requeue_after)
            elif not plan.creates and not plan.deletes and self.plan().status == plan.status:
                return
        raise AssertionError("the run does not come to rest")

    def ready(self) -> bool:
        """Whether all is done and served."""
        assert self.run.status is not None
        return any(c.type == "Ready" and c.status == "True" for c in self.run.status.conditions)

    def reason(self, kind: str) -> str:
        """The reason of a condition that is True."""
        assert self.run.status is not None
        [condition] = [c for c in self.run.status.conditions if c.type == kind]
        assert condition.status == "True", condition
        return str(condition.reason)

    def stages(self) -> list[tuple[int, str, int]]:
        """Every job ever created."""
        return [(i.spec.iteration, i.spec.stage, i.spec.attempt) for i in self.created]


def status(world: Cluster) -> RunStatus:
    assert world.run.status is not None
    return world.run.status


def until(world: Cluster, iteration: int, stage: str) -> JobIntent:
    """Lets all go well until that stage runs, and is seen to run."""
    for _ in range(200):
        world.step()
        running = world.running()
        assert running is not None
        if (running.spec.iteration, running.spec.stage) == (iteration, stage):
            world.step()
            return running
        world.end(running, good_result(running.spec))
    raise AssertionError("never came")


def failing(stage: str, failure: Outcome, times: int) -> Any:
    """Outcomes: that stage fails so many times, all else goes well."""
    left = [times]

    def outcome(intent: JobIntent) -> Outcome:
        if intent.spec.stage == stage and left[0]:
            left[0] -= 1
            return failure
        return good_result(intent.spec)

    return outcome
