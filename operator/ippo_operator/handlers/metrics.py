"""What Prometheus can ask. Labels are from closed lists: no name of a run, no UID."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.status import RunStatus
from ippo_operator.cluster import clock
from ippo_operator.cluster.transport import Request, Response, Transport
from ippo_operator.plan.phase import PhaseName, phase

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PHASES: tuple[PhaseName, ...] = get_args(PhaseName)
_MINUTES = (10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0, 43_200.0, 86_400.0)
_PASSES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """All of the operator's metrics, in a registry of their own.

    Args:
        wall: the time.
    """

    def __init__(self, wall: clock.Wall = clock.wall) -> None:
        self.registry = CollectorRegistry()
        self._wall = wall
        self._phases: dict[tuple[str, str], str] = {}
        self.stage_duration = self._histogram(
            "ippo_stage_duration_seconds", "From the intent to the end of an attempt", ("stage", "outcome"), _MINUTES
        )
        self.stage_attempts = self._counter("ippo_stage_attempts", "Attempts that ended", ("stage", "reason"))
        self.promotions = self._counter("ippo_promotions", "Gate decisions", ("outcome",))
        self.reconcile = self._histogram("ippo_reconcile_seconds", "Length of a pass over a run", (), _PASSES)
        self.errors = self._counter("ippo_reconcile_errors", "Passes that failed", ("kind",))
        self.requests = self._counter("ippo_api_requests", "Requests to the API server", ("method", "resource", "code"))
        self.registry.register(_Runs(self._phases))

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

    def phase_of(self, key: tuple[str, str], run: IterativePPORun | None) -> None:
        """Where a run stands now; None: it is gone."""
        if run is None:
            self._phases.pop(key, None)
        else:
            self._phases[key] = phase(run.spec, run.status or RunStatus(), self._wall()).name

    def forget_runs(self) -> None:
        """Another process counts them now."""
        self._phases.clear()

    def status_written(self, run: IterativePPORun, after: RunStatus) -> None:
        """Counts what a new status says that the one before it did not."""
        before = run.status or RunStatus()
        active = before.active
        if active is not None and (after.active is None or after.active.job_name != active.job_name):
            failed = after.last_failure is not None and after.last_failure != before.last_failure
            reason = str(after.last_failure.reason) if failed and after.last_failure is not None else "Completed"
            reason = "Suspended" if active.stopping and not failed and _same_stage(before, after) else reason
            outcome = "Failed" if failed else "Stopped" if reason == "Suspended" else "Succeeded"
            seconds = (self._wall() - active.created_at).total_seconds()
            self.stage_duration.labels(str(before.stage), outcome).observe(max(0.0, seconds))
            self.stage_attempts.labels(str(before.stage), reason).inc()
        if after.completed_iterations > before.completed_iterations and after.iterations:
            last = after.iterations[-1]
            if last.decision is not None:
                refused = last.decision.outcome == "Promote" and not last.promoted
                self.promotions.labels("NotApproved" if refused else last.decision.outcome).inc()


def _same_stage(before: RunStatus, after: RunStatus) -> bool:
    return (before.iteration, before.stage) == (after.iteration, after.stage)


class _Runs(Collector):
    """Runs by phase; every phase is there, also where it is zero."""

    def __init__(self, phases: dict[tuple[str, str], str]) -> None:
        self._phases = phases

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily("ippo_runs", "Runs by phase", labels=("phase",))
        tally = Tally(self._phases.values())
        for name in PHASES:
            family.add_metric([name], tally[name])
        yield family


class CountingTransport:
    """Counts requests by method, kind of object and status; 0 where no answer came."""

    def __init__(self, transport: Transport, metrics: Metrics) -> None:
        self._transport = transport
        self._metrics = metrics

    async def send(self, request: Request, timeout: float) -> Response:
        """See Transport."""
        code = "0"
        try:
            response = await self._transport.send(request, timeout)
            code = str(response.status)
            return response
        finally:
            self._metrics.requests.labels(request.method, _plural(request.path), code).inc()


def _plural(path: str) -> str:
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    return parts[2] if parts[0] == "namespaces" and len(parts) > 2 else parts[0]
