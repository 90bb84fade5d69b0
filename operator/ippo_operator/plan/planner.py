"""`plan`: what a run should do next.

A pass looks at how the active attempt is doing, records how it ended, and names the next attempt if one is due. What
is done is what the status recorded, never what jobs exist: a missing job is not an undone stage.
"""

from datetime import datetime, timedelta

from ippo_trainer.contract.spec import StoreLocation
from ippo_trainer.contract.stages import COLLECT, WARM_START

from ippo_operator.api import idle
from ippo_operator.api.reasons import Reason
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.status import ActiveAttempt, Budgets, FailureKind, IterationStatus, RunStatus, short
from ippo_operator.plan import approval, canary, failures, folders, live, results
from ippo_operator.plan.conditions import conditions, promoted_row
from ippo_operator.plan.figures import figures_in_words, span_in_words
from ippo_operator.plan.names import job_name
from ippo_operator.plan.phase import Phase, phase
from ippo_operator.plan.serving import ServingPlan, plan_serving
from ippo_operator.plan.stage_specs import job_intent
from ippo_operator.plan.types import Event, JobIntent, ObservedJob, ObservedLive, ObservedServing, Plan, World


def plan(
    run: IterativePPORun,
    jobs: tuple[ObservedJob, ...],
    now: datetime,
    store: StoreLocation,
    serving: ObservedServing | None = None,
    live_world: ObservedLive | None = None,
) -> Plan:
    """What to do next.

    Args:
        run: spec and the status that the last pass wrote (None before the first).
        jobs: the run's jobs as they are now, read after the run was.
        now: the time, with a zone; fractions of a second are dropped, as in Kubernetes.
        store: where this run's artifacts are.
        serving: the run's Deployment, read after the run was; None where nothing is ever served.
        live_world: the run's gateway and a candidate's servers; None for a run without collect.logged.

    Returns:
        The new status and the actions, to be carried out in the order that `Plan` states. Planning again in an
        unchanged world gives the same status and no new action.
    """
    return _Pass(run, World(jobs, now.replace(microsecond=0), serving, live_world), store).plan()


class _Pass:
    """One pass; `status` is what it has come to so far."""

    def __init__(self, run: IterativePPORun, world: World, store: StoreLocation) -> None:
        self.run = run
        self.world = world
        self.store = store
        self.status = run.status or RunStatus()
        self.creates: list[JobIntent] = []
        self.deletes: list[str] = []
        self.events: list[Event] = []
        self.overdue_at: datetime | None = None

    def plan(self) -> Plan:
        self.status = folders.claimed(self.run, self.status)
        if folders.restored(self.run):
            self._tell(Event("Normal", "Restored", f"goes on with the artifacts in {folders.folder(self.run)}"))
        if self.status.active is not None:
            self._look_at(self.status.active)
        self._look_at_customers()
        if self.status.active is not None:
            self._keep(self.status.active)
        elif self._phase().name == "Running":
            self._settle()
            if self._phase().name == "Running":
                self._begin()
        return self._finish()

    def _phase(self) -> Phase:
        return phase(self.run.spec, self.status, self.world.now)

    def _update(self, **changes: object) -> None:
        self.status = self.status.model_copy(update=changes)

    def _tell(self, event: Event) -> None:
        self.events.append(event)

    def _where(self) -> str:
        return f"iteration {self.status.iteration} {self.status.stage}"

    def _look_at_customers(self) -> None:
        """Takes note of what the gateway says, and of the A/B test of a candidate."""
        live_world = self.world.live
        if live_world is None or self._phase().ended:
            return
        for look in (live.observed, canary.observed):
            self.status, events = look(self.run.spec, self.status, live_world, self.world.now)
            self.events += events

    # How the active attempt is doing

    def _look_at(self, active: ActiveAttempt) -> None:
        job = self.world.job(active.job_name)
        if job is None:
            self._missing(active)
        elif job.input_digest != active.input_digest:
            text = f"{job.name} was made from other inputs than this run's; it is left alone"
            self._fail("Conflict", Reason.CHILD_CONFLICT, None, text)
        elif job.state in {"Running", "Refused"}:
            self._runs(active, job)
        elif job.state == "Succeeded":
            self._succeeded(job)
        else:
            self._failed(active, job)
        if job is not None and job.lingers:
            self.deletes.append(job.name)
            message = f"{job.name}: {job.lingers} went on after the stage had ended, so the job is deleted; "
            self._tell(Event("Normal", "SidecarEnded", message + "docs/stages.md#sidecars says how its logs are kept"))

    def _runs(self, active: ActiveAttempt, job: ObservedJob) -> None:
        waiting = job.waiting
        if waiting is not None and waiting != active.waiting and waiting.reason != Reason.WAITING_FOR_QUOTA:
            self._tell(Event("Warning", waiting.reason, f"{self._where()}: {waiting.message}"))
        observed = active.observed or job.state == "Running"
        overdue = active.overdue or self._overdue(active, job)
        # A Job cannot be changed. One that waits for what the spec no longer asks for gives way to a new attempt.
        stopping = active.stopping or (job.outdated and waiting is not None)
        update = {"observed": observed, "waiting": waiting, "overdue": overdue, "stopping": stopping}
        self._update(active=active.model_copy(update=update))

    def _overdue(self, active: ActiveAttempt, job: ObservedJob) -> str | None:
        """What to say once its pods have waited for too long, by the later of the API server's clock and ours."""
        stage = self.status.stage
        limit = self.run.spec.pods.pending_limit(stage) if stage is not None else None
        if limit is None or job.pending_since is None:
            return None
        self.overdue_at = max(job.pending_since, active.created_at) + timedelta(seconds=limit)
        if self.overdue_at > self.world.now:
            return None
        self.overdue_at = None
        cause = f": {job.waiting.message}" if job.waiting is not None else ""
        return short(f"{self._where()} waited longer than pendingDeadlineSeconds of spec.pods, {limit} s{cause}")

    def _missing(self, active: ActiveAttempt) -> None:
        if active.stopping:
            self._update(active=None)
        elif active.overdue is not None:
            self._fail("TryAgain", Reason.PENDING_DEADLINE_EXCEEDED, None, active.overdue)
        elif active.observed:
            self._fail("Disruption", Reason.DISRUPTED, None, f"{active.job_name} is gone")

    def _succeeded(self, job: ObservedJob) -> None:
        result = results.find_result(self.status, job)
        if isinstance(result, str):
            self._fail("Crash", Reason.RESULT_UNREADABLE, 0, result)
            return
        where, before = self._where(), self.status
        self.status = results.record(self.status, self.run.spec, result, self.world.now)
        seconds = (self.world.now - before.active.created_at).total_seconds() if before.active else 0.0
        words = figures_in_words(result) if result.informative is not False else ""
        text = f"{where} done in {span_in_words(seconds)}" + (f": {words}" if words else "")
        self._tell(Event("Normal", "StageCompleted", text))
        for warning in result.warnings or ():
            self._tell(Event("Warning", "StageWarning", f"{where}: {warning}"))
        if result.decision is not None:
            self._tell_decision(self.status.iterations[-1])
        if result.informative is False:
            self._uninformative(before, result.message)

    def _settle(self) -> None:
        """Collects more where Q was uninformative; takes the answer of a human or an A/B test for the candidate that
        waited for it."""
        failure = failures.pending(self.status)
        if failure is not None and failure.kind == "Uninformative":
            self.status = results.collect_more(self.status, self.run.spec)
            self.status = live.begun(self.run.spec, self.status)
            self._look_at_customers()
            return
        awaited = approval.awaited(self.status)
        answer = approval.verdict(self.run.spec, awaited) if awaited is not None else None
        if answer is None:
            return
        self.status = canary.ended_by_hand(self.run.spec, self.status, self.world.now)
        self.status = results.settle(self.status, self.run.spec, answer, self.world.now)
        self._tell_decision(self.status.iterations[-1])

    def _tell_decision(self, iteration: IterationStatus) -> None:
        row, number = promoted_row(self.run.spec, self.status), iteration.iteration
        if row.truth == "Unknown":
            self._tell(Event("Normal", row.reason, row.message))
            return
        evidence = approval.evidence(iteration)
        if row.truth == "True":
            self._tell(Event("Normal", row.reason, f"iteration {number} promoted: {evidence}"))
            return
        current = self.status.policy.iteration if self.status.policy is not None else 0
        text = f"iteration {number} not promoted: {evidence} The policy of iteration {current} stays."
        self._tell(Event("Warning", row.reason, text))

    def _uninformative(self, before: RunStatus, message: str) -> None:
        """Ends the run before Q is optimised; fit-q's own result stays recorded."""
        self.status = self.status.model_copy(update={"active": before.active})
        text = message.strip() or "Q tells no more than a constant, so it is not optimised."
        self._fail("Uninformative", Reason.Q_UNINFORMATIVE, None, text)

    def _failed(self, active: ActiveAttempt, job: ObservedJob) -> None:
        kind, reason = failures.classify(job.failure)
        if active.stopping and kind not in {"Spec", "Data"}:
            self._update(active=None)
            return
        if active.overdue is not None and kind not in {"Spec", "Data"}:
            self._fail("TryAgain", Reason.PENDING_DEADLINE_EXCEEDED, None, active.overdue)
            return
        code = job.failure.exit_code
        message = job.failure.message or ("lost" if code is None else f"exit code {code}")
        self._fail(kind, reason, code, f"{self._where()}: {message}")

    def _fail(self, kind: FailureKind, reason: Reason, code: int | None, message: str) -> None:
        self.status = failures.record(self.status, kind, reason, code, message, self.world.now)
        self._tell(Event("Warning", reason, message))

    # What to do about it

    def _keep(self, active: ActiveAttempt) -> None:
        """The attempt goes on: create its job if that was not done, stop it if the run is suspended."""
        if self.run.spec.suspend and not active.stopping:
            active = active.model_copy(update={"stopping": True})
            self._update(active=active)
            self._tell(Event("Normal", Reason.SUSPENDING, f"{self._where()} is told to stop"))
        if active.stopping or active.overdue is not None:
            self.deletes.append(active.job_name)
        elif not active.observed:
            self.creates.append(job_intent(self.run, self.status, active.job_name, self.store))

    def _begin(self) -> None:
        """Names the next attempt. Its job is created only once the status that names it is written."""
        if self.status.stage is None and self.status.start_policy is None and idle.in_words(self.run.spec):
            self._tell(Event("Warning", "FieldsWithoutEffect", idle.in_words(self.run.spec)))
        if self.status.start_policy is None:
            self._update(stage=WARM_START)
        elif self.status.stage is None:
            self._update(iteration=self.status.iteration + 1, stage=COLLECT, attempt=0, budgets=Budgets())
            self.status = live.begun(self.run.spec, self.status)
        self._look_at_customers()
        if live.waits(self.run.spec, self.status):
            return
        attempt = self.status.attempt + 1
        metadata, stage = self.run.metadata, self.status.stage
        if stage is None:
            raise ValueError("no stage is due")
        name = job_name(metadata.name, metadata.uid, self.status.iteration, stage, attempt)
        self._update(attempt=attempt)
        intent = job_intent(self.run, self.status, name, self.store)
        self.creates.append(intent)
        digest = intent.spec.input_digest()
        retry = failures.retry_digest(self.run.spec, stage)
        active = ActiveAttempt(job_name=name, input_digest=digest, created_at=self.world.now, retry_digest=retry)
        self._update(active=active)
        again = f", attempt {attempt}" if attempt > 1 else ""
        self._tell(Event("Normal", "StageStarted", f"{self._where()} starts{again}"))

    def _serve(self) -> ServingPlan:
        """What is served follows from the policy that all else in this pass came to."""
        if self.world.serving is None:
            return ServingPlan(self.status.serving)
        rollout = plan_serving(self.run.spec, self.status, self.world.serving, self.world.now)
        self._update(serving=rollout.serving)
        self.events += rollout.events
        return rollout

    def _finish(self) -> Plan:
        now, before = self.world.now, self.run.status
        served = self._serve()
        stands = self._phase()
        self._update(
            conditions=conditions(self.run, self.status, stands, now),
            observed_generation=self.run.metadata.generation,
            progress=f"{self.status.completed_iterations}/{self.run.spec.iterations.max}",
        )
        self._tell_transition(before, stands)
        due = failures.retry_at(self.status, self.run.spec) if stands.name == "Waiting" else self.overdue_at
        wait = max(0.0, (due - now).total_seconds()) if due is not None else None
        look = live.look_after(self.run.spec, self.status)
        waits = [seconds for seconds in (wait, look, served.requeue_after) if seconds is not None]
        return Plan(
            self.status,
            creates=tuple(self.creates),
            deletes=tuple(self.deletes),
            events=tuple(self.events),
            requeue_after=min(waits, default=None),
            serve=served.serve,
            unserve=served.unserve,
            live=live.intent(self.run.spec, self.status),
        )

    def _tell_transition(self, before: RunStatus | None, stands: Phase) -> None:
        """Events of a run that ended, stalled, or was suspended or resumed in this pass."""
        was = before or RunStatus()
        if stands.done is not None and self.status.is_true("Succeeded") and not was.is_true("Succeeded"):
            self._tell(Event("Normal", *stands.done))
        event: Event | None = None
        if stands.stalled and not was.is_true("Stalled"):
            event = Event("Warning", stands.reason, stands.message)
        elif stands.name == "Suspended" and not was.is_true("Suspended"):
            event = Event("Normal", stands.reason, stands.message)
        elif stands.name == "Running" and was.is_true("Suspended"):
            event = Event("Normal", "Resumed", f"goes on with {stands.message}")
        if event is not None and all(event.reason != earlier.reason for earlier in self.events):
            self._tell(event)
