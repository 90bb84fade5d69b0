"""What Prometheus can ask. Labels are from closed lists: no name of a run, no UID.

What is counted are changes that a written status tells, once it is written. So a pass that is repeated, a write that
was refused and a process that starts again count nothing twice; a process that dies between the write and the count
counts nothing.
"""

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ippo_operator.api.reasons import Reason
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.status import RunStatus, ServingStatus
from ippo_operator.cluster import clock
from ippo_operator.cluster.errors import ApiError
from ippo_operator.cluster.observe.snapshot import UnreadableStatusError
from ippo_operator.cluster.resources import Key
from ippo_operator.cluster.transport import Request, Response, Transport
from ippo_operator.plan import approval
from ippo_operator.plan.phase import Phase, PhaseName, phase

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PHASES: tuple[PhaseName, ...] = get_args(PhaseName)
WAITS = (
    Reason.AWAITING_APPROVAL,
    Reason.GATEWAY_UNREACHABLE,
    Reason.WAITING_FOR_QUOTA,
    Reason.JOB_PAUSED,
    Reason.UNSCHEDULABLE,
    Reason.IMAGE_PULL_FAILED,
    Reason.POD_REFUSED,
    Reason.POD_NOT_STARTED,
    Reason.CHILD_REFUSED,
)
"""What a run may wait for that somebody else has to see to."""
ENDED = (str(Reason.COMPLETED), str(Reason.STOP_CONDITION_MET), "Stalled")
_ERRORS: tuple[type[Exception], ...] = (ApiError, *ApiError.__subclasses__(), UnreadableStatusError)
ERROR_KINDS = (*(kind.__name__ for kind in _ERRORS), "Bug")
PROMOTIONS = ("Promote", "Reject", "Inconclusive", str(Reason.NOT_APPROVED))
REPLACED = "Replaced"
"""Of an attempt that was stopped so that the next one starts with what the spec says now."""
ROLLOUTS = ("RolledOut", str(Reason.ROLLED_BACK), str(Reason.ROLLOUT_TIMED_OUT))
_MINUTES = (10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0, 43_200.0, 86_400.0)
_PASSES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True)
class _Standing:
    """Where a run stands; kept of every run, so it is small."""

    phase: PhaseName
    waits: Reason | None = None
    since: datetime | None = None


class Metrics:
    """All of the operator's metrics, in a registry of their own.

    Args:
        wall: the time.
    """

    def __init__(self, wall: clock.Wall = clock.wall) -> None:
        self.registry = CollectorRegistry()
        self._wall = wall
        self._standings: dict[Key, _Standing] = {}
        self._begun: set[Key] = set()
        self.stage_duration = self._histogram(
            "ippo_stage_duration_seconds", "From the intent to the end of an attempt", ("stage", "outcome"), _MINUTES
        )
        self.stage_attempts = self._counter("ippo_stage_attempts", "Attempts that ended", ("stage", "reason"))
        self.promotions = self._counter("ippo_promotions", "Gate decisions", ("outcome",))
        self.rollouts = self._counter("ippo_rollouts", "Roll-outs of policies that ended", ("outcome",))
        self.rollout_duration = self._histogram(
            "ippo_rollout_duration_seconds",
            "From the decision to serve a policy to its servers being ready",
            (),
            _MINUTES,
        )
        self.ended = self._counter("ippo_runs_ended", "Runs that came to an end, or stalled", ("outcome",))
        self.reconcile = self._histogram("ippo_reconcile_seconds", "Length of a pass over a run", (), _PASSES)
        self.next_job = self._histogram(
            "ippo_next_job_seconds",
            "From the first event that a watch told to the Job that a pass made of it",
            (),
            _PASSES,
        )
        self.errors = self._counter("ippo_reconcile_errors", "Passes that failed", ("kind",))
        self.requests = self._counter("ippo_api_requests", "Requests to the API server", ("method", "resource", "code"))
        self.request_duration = self._histogram(
            "ippo_api_request_seconds", "How long the API server took to answer", ("method",), _PASSES
        )
        self.registry.register(_Runs(self._standings, wall))
        ProcessCollector(registry=self.registry)
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """A counter that is born with its first event has no increase that an alert could see."""
        counters = (self.promotions, self.rollouts, self.ended, self.errors)
        for counter, labels in zip(counters, (PROMOTIONS, ROLLOUTS, ENDED, ERROR_KINDS), strict=True):
            for label in labels:
                counter.labels(label)

    def _counter(self, name: str, about: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, about, labels, buckets=buckets, registry=self.registry)

    def ask(self, name: str, about: str, value: Callable[[], float]) -> None:
        """A gauge whose value is computed whenever it is read."""
        Gauge(name, about, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def phase_of(self, key: Key, run: IterativePPORun | None) -> None:
        """Where a run stands now; None: it is gone."""
        if run is None:
            self._standings.pop(key, None)
            return
        status = run.status or RunStatus()
        self._standings[key] = _standing(status, phase(run.spec, status, self._wall()))

    def forget_runs(self) -> None:
        """Another process counts them now."""
        self._standings.clear()

    def failed(self, kind: str) -> None:
        """A pass failed; errors of one kind, a class of errors or Bug, are alike to whoever is paged."""
        self.errors.labels(kind).inc()

    def began_stage(self, key: Key) -> bool:
        """Whether a status that names a new attempt of the run was written since this was last asked."""
        begun = key in self._begun
        self._begun.discard(key)
        return begun

    def status_written(self, run: IterativePPORun, after: RunStatus) -> None:
        """Counts what a new status says that the one before it did not."""
        before = run.status or RunStatus()
        if after.active is not None and (before.active is None or after.active.job_name != before.active.job_name):
            self._begun.add((run.metadata.namespace or "", run.metadata.name))
        self._count_attempt(run, before, after)
        self._count_promotion(before, after)
        self._count_end(before, after)
        self._count_rollout(before.serving or ServingStatus(), after.serving or ServingStatus())

    def _count_attempt(self, run: IterativePPORun, before: RunStatus, after: RunStatus) -> None:
        active = before.active
        if active is None or (after.active is not None and after.active.job_name == active.job_name):
            return
        failed = after.last_failure is not None and after.last_failure != before.last_failure
        if failed and after.last_failure is not None:
            outcome, reason = "Failed", str(after.last_failure.reason)
        elif active.stopping and _same_stage(before, after):
            outcome, reason = "Stopped", str(Reason.SUSPENDED) if run.spec.suspend else REPLACED
        else:
            outcome, reason = "Succeeded", str(Reason.COMPLETED)
        seconds = (self._wall() - active.created_at).total_seconds()
        self.stage_duration.labels(str(before.stage), outcome).observe(max(0.0, seconds))
        self.stage_attempts.labels(str(before.stage), reason).inc()

    def _count_promotion(self, before: RunStatus, after: RunStatus) -> None:
        if after.completed_iterations <= before.completed_iterations or not after.iterations:
            return
        last = after.iterations[-1]
        if last.decision is not None:
            self.promotions.labels(approval.settled_as(last) or str(Reason.NOT_APPROVED)).inc()

    def _count_end(self, before: RunStatus, after: RunStatus) -> None:
        if after.is_true("Stalled") and not before.is_true("Stalled"):
            self.ended.labels("Stalled").inc()
        if after.is_true("Succeeded") and not before.is_true("Succeeded"):
            condition = after.condition("Succeeded")
            met = condition is not None and condition.reason == Reason.STOP_CONDITION_MET
            self.ended.labels(str(Reason.STOP_CONDITION_MET if met else Reason.COMPLETED)).inc()

    def _count_rollout(self, before: ServingStatus, after: ServingStatus) -> None:
        if after.active is not None and not after.active.same(before.active):
            self.rollouts.labels("RolledOut").inc()
            if before.waiting_since is not None:
                self.rollout_duration.observe(max(0.0, (self._wall() - before.waiting_since).total_seconds()))
        if after.failed is not None and after.failed != before.failed:
            self.rollouts.labels(str(after.failed.reason)).inc()
        lost = after.waiting is not None and after.waiting.reason == Reason.ROLLOUT_TIMED_OUT
        if lost and (before.waiting is None or before.waiting.reason != Reason.ROLLOUT_TIMED_OUT):
            self.rollouts.labels(str(Reason.ROLLOUT_TIMED_OUT)).inc()


def _same_stage(before: RunStatus, after: RunStatus) -> bool:
    return (before.iteration, before.stage) == (after.iteration, after.stage)


def _standing(status: RunStatus, stands: Phase) -> _Standing:
    if stands.reason not in WAITS:
        return _Standing(stands.name)
    if status.active is not None:
        return _Standing(stands.name, stands.reason, status.active.created_at)
    last = status.iterations[-1].stages[-1:] if status.iterations else ()
    return _Standing(stands.name, stands.reason, last[0].finished_at if last else None)


class _Runs(Collector):
    """Runs by phase and by what they wait for; all of the closed list is there, also where it is zero."""

    def __init__(self, standings: dict[Key, _Standing], wall: clock.Wall) -> None:
        self._standings = standings
        self._wall = wall

    def collect(self) -> Iterable[Metric]:
        now, runs = self._wall(), list(self._standings.values())
        phases = GaugeMetricFamily("ippo_runs", "Runs by phase", labels=("phase",))
        tally = Tally(run.phase for run in runs)
        for name in PHASES:
            phases.add_metric([name], tally[name])
        yield phases
        waiting = GaugeMetricFamily("ippo_runs_waiting", "Runs that wait for somebody else", labels=("reason",))
        longest = GaugeMetricFamily(
            "ippo_longest_wait_seconds", "Of the run that has waited longest", labels=("reason",)
        )
        for reason in WAITS:
            ages = [(now - run.since).total_seconds() for run in runs if run.waits == reason and run.since is not None]
            waiting.add_metric([str(reason)], sum(run.waits == reason for run in runs))
            longest.add_metric([str(reason)], max(ages, default=0.0))
        yield waiting
        yield longest


class CountingTransport:
    """Counts requests by method, kind of object and status; 0 where no answer came."""

    def __init__(self, transport: Transport, metrics: Metrics) -> None:
        self._transport = transport
        self._metrics = metrics

    async def send(self, request: Request, timeout: float) -> Response:
        """See Transport. What pods answer is no word of the API server, and of any number of codes."""
        if request.foreign:
            return await self._transport.send(request, timeout)
        code, began = "0", time.perf_counter()
        try:
            response = await self._transport.send(request, timeout)
            code = str(response.status)
            return response
        finally:
            self._metrics.requests.labels(request.method, _plural(request.path), code).inc()
            self._metrics.request_duration.labels(request.method).observe(time.perf_counter() - began)


def _plural(path: str) -> str:
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    return parts[2] if parts[0] == "namespaces" and len(parts) > 2 else parts[0]
