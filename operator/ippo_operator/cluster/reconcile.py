"""One pass over one run: read, plan, write the status, then act on it, then tell.

The status that names an attempt is written before its Job is created, and the status that records a result before
anything builds on it. So whoever dies at any point leaves a status from which the next pass goes on.
"""

import copy
import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC

from ippo_trainer.contract.spec import StoreLocation

from ippo_operator.api.reasons import Reason
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.status import RunStatus, Waiting
from ippo_operator.cluster import artifacts_in_use, children, clock, log_context, run_status
from ippo_operator.cluster.children import ChildConflictError, stage_objects
from ippo_operator.cluster.client import Client, Manifest
from ippo_operator.cluster.errors import ApiError, ConflictError, NotFoundError, TooLargeError, refuses_object
from ippo_operator.cluster.events import EventWriter
from ippo_operator.cluster.live import Live, LiveObjects
from ippo_operator.cluster.live_report import Silences
from ippo_operator.cluster.mending import RepairBackoff, Repairs
from ippo_operator.cluster.observe import job_state
from ippo_operator.cluster.observe.owned_jobs import OwnedJobs
from ippo_operator.cluster.observe.snapshot import Snapshot, read_snapshot
from ippo_operator.cluster.remedies import with_remedy
from ippo_operator.cluster.resources import RUNS
from ippo_operator.cluster.run_status import StatusWriter
from ippo_operator.cluster.servers import Servers, Serving, Stopwatch
from ippo_operator.cluster.waiting_messages import WaitingMessages
from ippo_operator.manifests.platform import Platform
from ippo_operator.plan import planner
from ippo_operator.plan.cleanup import expired
from ippo_operator.plan.stage_specs import job_intent, s3_location
from ippo_operator.plan.types import Event, ObservedJob, ObservedLive, Plan, World

_LOGGED_ONLY = {"StageStarted", "RollingOut", "RolledOut"}
"""Jobs and Deployments tell of these themselves; writes are what a control plane has least of."""
_SOON = 1.0
"""Seconds."""
_log = logging.getLogger("ippo.reconcile")


@dataclass(frozen=True)
class PassOutcome:
    """How a pass ended."""

    exists: bool = True
    """Whether there is such a run."""
    again: bool = False
    """Something changed under the pass, or the server refused a child: another pass is due, with back-off."""
    requeue_after: float | None = None
    """Seconds after which another pass is due even if nothing happens."""
    run: IterativePPORun | None = None
    """The run with the status that it has now."""
    version: str | None = None
    """The run's resourceVersion after the pass's last write: what a watch tells of it is no news."""


Watcher = Callable[[IterativePPORun, RunStatus], None]
"""Told of every status that was written: the run as it was read, and the new status."""


class Reconciler:
    """Passes over runs.

    Args:
        client: fenced; every write goes through it.
        platform: what the operator was installed with.
        instance: of this process, for events.
        wall: the time; by default the API server's, which dates all that it is compared with.
        watcher: is told what changed.
        namespaces: that this operator sees; none for all.
        steady: seconds that go on.
    """

    def __init__(
        self,
        client: Client,
        platform: Platform,
        instance: str,
        wall: clock.Wall | None = None,
        watcher: Watcher = lambda _run, _status: None,
        namespaces: Sequence[str] = (),
        steady: clock.Steady = clock.steady,
    ) -> None:
        self._client = client
        self._platform = platform
        self._builder = stage_objects(platform)
        self._wall = wall or client.clock
        self._watcher = watcher
        self._namespaces = namespaces
        self._events = EventWriter(client, instance, self._wall, steady)
        self._messages = WaitingMessages(steady)
        self._statuses = StatusWriter(self._events)
        self._stopwatch = Stopwatch(steady)
        self._silences = Silences(steady)
        self._repair_backoff = RepairBackoff(steady)
        self._owned = OwnedJobs()
        self._reads_all = False

    def reading_more(self, client: Client) -> "Reconciler":
        """The same, with a client that reads larger objects."""
        reconciler = copy.copy(self)
        reconciler._client = client
        reconciler._reads_all = True
        return reconciler

    async def reconcile(self, namespace: str, name: str) -> PassOutcome:
        """One pass.

        Raises:
            ApiError: the API server refused, or could not be reached; try again later.
            FencedError: this process must not write.
            UnreadableStatusError: somebody else wrote the status.
        """
        try:
            return await self._reconcile(namespace, name)
        except TooLargeError as error:
            if self._reads_all:
                await self._tell_too_large(namespace, name, error)
            raise

    async def _reconcile(self, namespace: str, name: str) -> PassOutcome:
        snapshot = await read_snapshot(self._client, self._owned, namespace, name, self._wall())
        if snapshot is None:
            for memory in (self._stopwatch, self._silences, self._statuses, self._messages):
                memory.forget((namespace, name))
            return PassOutcome(exists=False)
        if snapshot.being_deleted:
            await children.wind_down(self._client, snapshot.uid, namespace, name, snapshot.jobs.values())
            return PassOutcome(requeue_after=snapshot.look_again)
        if snapshot.run is None:
            return PassOutcome(again=not await self._refuse(snapshot, snapshot.problem, Reason.INVALID_SPEC))
        problem = await artifacts_in_use.problem(self._client, self._namespaces, snapshot.run)
        if problem is not None:
            written = await self._refuse(snapshot, problem, Reason.ARTIFACTS_IN_USE)
            return PassOutcome(again=not written, requeue_after=artifacts_in_use.LOOK_AGAIN)
        try:
            return await self._act(snapshot, snapshot.run)
        except (ConflictError, NotFoundError) as error:
            _log.debug("the world changed during the pass: %s", error)
            return PassOutcome(again=True)

    async def _refuse(self, snapshot: Snapshot, problem: str, reason: Reason) -> bool:
        """Has the conditions say why nothing is done; False if the run changed meanwhile."""
        status = run_status.refused(snapshot.raw, problem, self._wall(), reason)
        try:
            if status is not None:
                await self._statuses.write(self._client, snapshot.raw, status)
        except (ConflictError, NotFoundError):
            return False
        return True

    async def _tell_too_large(self, namespace: str, name: str, error: TooLargeError) -> None:
        """On the run itself, of which hardly more than its name may be readable."""
        with suppress(ApiError):
            about = await self._client.get(RUNS, namespace, name, metadata_only=True)
            if about is not None:
                text = (
                    f"nothing goes on, because this run, or an object of it, is larger than the operator reads: {error}"
                )
                about |= {"apiVersion": RUNS.api_version, "kind": RUNS.kind}
                await self._events.write(about, Event("Warning", "TooLarge", text))

    async def _act(self, snapshot: Snapshot, run: IterativePPORun) -> PassOutcome:
        serving = Serving(self._client, run, _store(run), self._platform)
        live = Live.beside(serving, self._silences)
        servers, objects = await serving.read(self._stopwatch), await live.read()
        world = World(
            snapshot.observed,
            self._wall(),
            servers.observed if servers is not None else None,
            objects.observed if objects is not None else None,
        )
        plan = self._plan(run, world)
        if world.serving is not None:
            self._stopwatch.look(serving.key, plan.status.serving, world.serving)
        await self._forget(snapshot, run, plan)
        before = run.status
        raw, run = await self._record(snapshot.raw, run, plan)
        try:
            trouble = await self._create(snapshot.uid, run, plan)
            await self._restore(snapshot, run)
            for name in (*plan.deletes, *_strays(snapshot, run)):
                if name in snapshot.jobs:
                    await children.stop(self._client, raw["metadata"]["namespace"], snapshot.jobs[name])
            after = world if trouble is None else replace(world, jobs=(trouble,))
            blocked, rest = await self._serve(raw, replace(serving, run=run), plan, servers)
            if blocked is not None and world.serving is not None:
                after = replace(after, serving=replace(world.serving, blocked=blocked))
            after_live, live_rest = await self._go_live(raw, live, plan, objects)
            after = replace(after, live=after_live)
        finally:  # last, so that no Job waits for them; but what the status says is told in any case
            await self._tell(raw, before, plan)
        if after != world or _refused(after):
            second, before = self._plan(run, replace(after, now=self._wall())), run.status
            raw, run = await self._record(raw, run, second)
            await self._tell(raw, before, second)
            return PassOutcome(again=True, run=run)
        next_cleanup = await self._clean(snapshot, run)
        looks = [there.look_again for there in (servers, objects) if there is not None]
        # No event tells that a Job which was never made is gone.
        absent = None if all(name in snapshot.jobs for name in plan.deletes) else _SOON
        again = _sooner(plan.requeue_after, snapshot.look_again, *looks, next_cleanup, absent, rest, live_rest)
        return PassOutcome(requeue_after=again, run=run, version=raw["metadata"]["resourceVersion"])

    async def _serve(
        self, raw: Manifest, serving: Serving, plan: Plan, servers: Servers | None
    ) -> tuple[Waiting | None, float | None]:
        """Makes the Deployment and the Service what they should be; see `_mend`."""
        if servers is None:
            return None, None
        if plan.unserve:
            await serving.remove(servers)
        if plan.serve is None:
            return None, None
        work = serving.carry_out(plan.serve, servers, self._repair_backoff)
        return await self._mend(raw, work, f"the Deployment or the Service {serving.run.metadata.name}")

    async def _go_live(
        self, raw: Manifest, live: Live, plan: Plan, objects: LiveObjects | None
    ) -> tuple[ObservedLive | None, float | None]:
        """Makes the gateway and a candidate's servers what they should be; returns what the planner has to know after
        that, and the seconds after which they may be put right again."""
        if objects is None:
            return None, None
        what = f"an object of the gateway or the candidate of {live.run.metadata.name}"
        work = live.carry_out(plan.live, objects, self._repair_backoff)
        refused, rest = await self._mend(raw, work, what)
        return objects.otherwise if refused is None else replace(objects.observed, trouble=refused), rest

    async def _mend(self, raw: Manifest, work: Awaitable[Repairs], what: str) -> tuple[Waiting | None, float | None]:
        """Puts objects right, and tells what others had changed; returns what the run has to say if the API server
        refuses that, and the seconds after which they may be put right again."""
        try:
            repairs = await work
        except ApiError as error:
            if not refuses_object(error):
                raise
            text = f"the API server refuses {what}: {with_remedy(str(error))}"
            return Waiting(reason=Reason.CHILD_REFUSED, message=text), None
        for message in repairs.messages:
            _log.warning("%s", message)
            await self._events.write(raw, Event("Warning", "PutBack", message))
        return None, repairs.wait

    async def _forget(self, snapshot: Snapshot, run: IterativePPORun, plan: Plan) -> None:
        """Deletes the stage spec of an attempt whose Job is gone, before the status forgets its name."""
        active = run.status.active if run.status is not None else None
        over = active is not None and (plan.status.active is None or plan.status.active.job_name != active.job_name)
        if active is not None and over and active.job_name not in snapshot.jobs:
            await children.forget(self._client, snapshot.uid, snapshot.raw["metadata"]["namespace"], active.job_name)

    async def _clean(self, snapshot: Snapshot, run: IterativePPORun) -> float | None:
        """Deletes Jobs that were kept for long enough; returns the seconds until the next one is due."""
        ended = [job.ended for job in snapshot.jobs.values() if job.ended is not None]
        active = run.status.active.job_name if run.status is not None and run.status.active is not None else None
        due = expired(ended, active, run.spec.cleanup, self._wall())
        for name in due.names:
            await children.clean(self._client, snapshot.uid, snapshot.raw["metadata"]["namespace"], snapshot.jobs[name])
        return due.next_after

    def _plan(self, run: IterativePPORun, world: World) -> Plan:
        key = (run.metadata.namespace, run.metadata.name)
        jobs = tuple(self._messages.job(key, job, run.status) for job in world.jobs)
        servers = self._messages.serving(key, world.serving, run.status) if world.serving is not None else None
        live = self._messages.live(key, world.live, run.status) if world.live is not None else None
        return planner.plan(run, jobs, world.now.astimezone(UTC), _store(run), servers, live)

    async def _record(self, raw: Manifest, run: IterativePPORun, plan: Plan) -> tuple[Manifest, IterativePPORun]:
        """Writes the status if it changed; returns the run as it is on the server now.

        Raises:
            ConflictError: the run changed since it was read; nothing of the plan may be done.
        """
        if plan.status == run.status:
            return raw, run
        status = json.loads(plan.status.model_dump_json(by_alias=True, exclude_none=True))
        raw = await self._statuses.write(self._client, raw, status)
        log_context.bind(stage=plan.status.stage, attempt=plan.status.attempt)
        self._watcher(run, plan.status)
        return raw, run.model_copy(update={"status": plan.status})

    async def _tell(self, written: Manifest, before: RunStatus | None, plan: Plan) -> None:
        """Events of a status that was written."""
        if plan.status == before:
            return
        for event in plan.events:
            _log.info("%s: %s", event.reason, event.message)
            if event.reason not in _LOGGED_ONLY:
                await self._events.write(written, event)

    async def _create(self, uid: str, run: IterativePPORun, plan: Plan) -> ObservedJob | None:
        """Creates what is due; returns what the planner has to know about it if that cannot be done."""
        for intent in plan.creates:
            try:
                await children.create(self._client, uid, str(run.metadata.namespace), list(self._builder(run, intent)))
            except ChildConflictError as error:
                _log.warning("%s", error)
                return job_state.foreign(intent.name)
            except ApiError as error:
                if not refuses_object(error):
                    raise
                return job_state.refused(intent.name, intent.spec.input_digest(), str(error))
        return None

    async def _restore(self, snapshot: Snapshot, run: IterativePPORun) -> None:
        """Makes what a Job's pods wait for again, where somebody deleted it. The Job itself is never made twice."""
        active = run.status.active if run.status is not None else None
        waits = {job.waiting.reason for job in snapshot.observed if job.waiting is not None}
        if run.status is None or active is None or active.stopping or Reason.POD_NOT_STARTED not in waits:
            return
        *beside, _ = self._builder(run, job_intent(run, run.status, active.job_name, _store(run)))
        try:
            await children.create(self._client, snapshot.uid, str(run.metadata.namespace), beside)
        except ChildConflictError as error:
            _log.warning("%s", error)


def _strays(snapshot: Snapshot, run: IterativePPORun) -> Iterator[str]:
    """Jobs of earlier attempts that still run: a creation that seemed to have failed can arrive after all."""
    active = run.status.active if run.status is not None else None
    for name, job in snapshot.jobs.items():
        if not job.over and (active is None or (name != active.job_name and job.created_at < active.created_at)):
            yield name


def _refused(world: World) -> bool:
    """Whether an object of the gateway or of a candidate still is."""
    trouble = world.live.trouble if world.live is not None else None
    return trouble is not None and trouble.reason == Reason.CHILD_REFUSED


def _store(run: IterativePPORun) -> StoreLocation:
    if run.spec.artifacts is None:
        raise ValueError("a run without artifacts is not planned in a cluster")
    return StoreLocation(s3=s3_location(run, run.spec.artifacts.s3))


def _sooner(*times: float | None) -> float | None:
    return min((seconds for seconds in times if seconds is not None), default=None)
