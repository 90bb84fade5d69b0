"""Where a run stands, derived from spec and status alone: the one place that says what is terminal."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ippo_operator.api import rules
from ippo_operator.api.reasons import Reason
from ippo_operator.api.resource import RunSpec
from ippo_operator.api.status import RunStatus, to_rfc3339
from ippo_operator.plan import approval, canary, failures, live, serving

PhaseName = Literal[
    "Invalid", "Failed", "Succeeded", "RollingOut", "NotServed", "Suspending", "Suspended", "Waiting", "Running"
]
"""RollingOut and NotServed: all iterations are done, but the latest policy's servers are not ready, yet or for good."""


@dataclass(frozen=True)
class Phase:
    """Where a run stands, why, and a sentence for people."""

    name: PhaseName
    reason: Reason
    message: str
    done: tuple[Reason, str] | None = None
    """Why there is no other iteration, where the run got that far."""

    @property
    def stalled(self) -> bool:
        """It did not come to its goal, and nothing will be done about that until somebody mends something."""
        return self.name in {"Invalid", "Failed", "NotServed"}

    @property
    def ended(self) -> bool:
        """Nothing will be done until the spec changes, or a cluster's trouble with serving ends."""
        return self.stalled or self.name == "Succeeded"

    @property
    def at_rest(self) -> bool:
        """Nothing will be done until someone changes the spec, be it to go on."""
        return self.ended or self.name == "Suspended" or self.reason == Reason.AWAITING_APPROVAL


def phase(spec: RunSpec, status: RunStatus, now: datetime) -> Phase:
    """Where the run stands at `now`."""
    if status.active is not None:
        return _with_active(spec, status)
    broken = rules.problems(spec)
    if broken:
        return Phase("Invalid", Reason.INVALID_SPEC, "; ".join(map(str, broken)))
    failed = failures.final(status, spec)
    if failed is not None:
        return Phase("Failed", *failed)
    if status.stage is None:
        done = _completed(spec, status)
        if done is not None:
            return _with_servers(spec, status, done)
    if spec.suspend:
        return Phase("Suspended", Reason.SUSPENDED, "spec.suspend is true; set it to false to go on")
    awaiting = approval.awaited(status)
    if awaiting is not None and approval.verdict(spec, awaiting) is None:
        if approval.in_test(spec, awaiting):
            return Phase("Waiting", *canary.progress(awaiting, status))
        return Phase("Waiting", Reason.AWAITING_APPROVAL, approval.question(spec, awaiting))
    due = failures.retry_at(status, spec)
    failure = failures.pending(status)
    # A failure far in the future is of a clock that was wrong; nobody waits for hours because of it.
    if failure is not None and due is not None and now < due <= now + 2 * (due - failure.time):
        return Phase("Waiting", Reason.WAITING_TO_RETRY, f"tried again from {to_rfc3339(due)}: {failure.message}")
    if live.waits(spec, status):
        return Phase("Waiting", *live.progress(status))
    return Phase("Running", Reason.STAGE_RUNNING, _where(status))


def _with_active(spec: RunSpec, status: RunStatus) -> Phase:
    waiting = status.active.waiting if status.active is not None else None
    late = f": {waiting.message}" if waiting is not None and waiting.reason == Reason.DISRUPTED else ""
    if status.active is not None and status.active.stopping and not spec.suspend:
        text = f"{_where(status)} ends, and the next one starts with what the spec says now{late}"
        return Phase("Running", Reason.STAGE_RUNNING, text)
    if status.active is not None and status.active.stopping:
        return Phase("Suspending", Reason.SUSPENDING, f"{_where(status)} saves its checkpoint{late}")
    if status.active is not None and status.active.overdue is not None:
        return Phase("Running", Reason.PENDING_DEADLINE_EXCEEDED, f"{status.active.overdue}; its job is being deleted")
    if waiting is not None:
        return Phase("Running", waiting.reason, f"{_where(status)}: {waiting.message}")
    return Phase("Running", Reason.STAGE_RUNNING, _where(status))


def _where(status: RunStatus) -> str:
    if status.stage is None:
        return "the warm start" if status.start_policy is None else f"iteration {status.iteration + 1}"
    return f"{status.stage} of iteration {status.iteration}, attempt {max(1, status.attempt)}"


def _with_servers(spec: RunSpec, status: RunStatus, done: tuple[Reason, str]) -> Phase:
    """A run that serves is at its goal once its latest policy is served."""
    served = status.serving if spec.serve is not None else None
    problem = serving.trouble(served)
    if problem is not None:
        return Phase("NotServed", *problem, done)
    if served is not None and served.waiting_since is not None:
        return Phase("RollingOut", Reason.ROLLING_OUT, serving.rolling_out(served), done)
    return Phase("Succeeded", *done, done)


def _completed(spec: RunSpec, status: RunStatus) -> tuple[Reason, str] | None:
    """Why a run between two iterations does not begin another."""
    done, limit, stop = status.completed_iterations, spec.iterations.max, spec.iterations.stop_when
    if done >= limit:
        return Reason.COMPLETED, f"{done} of {limit} iterations are done"
    if stop.consecutive_rejections is not None and status.consecutive_rejections >= stop.consecutive_rejections:
        text = f"{status.consecutive_rejections} iterations in a row brought no promotion, as stopWhen asks"
        return Reason.STOP_CONDITION_MET, text
    reached = _success_of_promoted(status)
    if stop.success_at_least is not None and reached is not None and reached >= float(stop.success_at_least):
        text = f"the promoted policy's success {reached:.4g} reaches stopWhen.successAtLeast {stop.success_at_least}"
        return Reason.STOP_CONDITION_MET, text
    return None


def _success_of_promoted(status: RunStatus) -> float | None:
    """Of its A/B test, or else of its evaluation."""
    last = status.iterations[-1] if status.iterations else None
    if last is None or not last.promoted:
        return None
    arm = last.canary.candidate if last.canary is not None else None
    measured = arm.outcomes / arm.conversations if arm is not None and arm.conversations else None
    return last.metrics.get("success") if measured is None else measured
