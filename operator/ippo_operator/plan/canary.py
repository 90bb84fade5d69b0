"""The A/B test of a candidate: when it begins, what is known of it, and how it ends.

What decides is a sequential test over the conversations' outcomes, which the gateway's report carries out
(`ippo_trainer.live.canary`). Here its verdict is taken, once, and written down.
"""

from datetime import datetime, timedelta

from ippo_trainer.contract.fields import window_seconds
from ippo_trainer.contract.live import ArmReport, Canary, CanaryVerdict
from ippo_trainer.contract.spec import ArtifactRef
from ippo_trainer.contract.stages import IMPROVE

from ippo_operator.api.reasons import Reason
from ippo_operator.api.resource import RunSpec
from ippo_operator.api.status import ArmCounts, CanaryStatus, DeployedPolicy, IterationStatus, RunStatus
from ippo_operator.plan import approval, results
from ippo_operator.plan.types import CanaryIntent, Event, ObservedLive

REFRESH = timedelta(seconds=60)
"""A status is not written more often for new figures alone."""


def due_again(counted_at: datetime | None, now: datetime) -> bool:
    """Whether figures of that time may give way to newer ones."""
    return counted_at is None or not counted_at <= now < counted_at + REFRESH


def settings(spec: RunSpec) -> Canary:
    """Of the A/B test."""
    return (spec.serve.canary if spec.serve is not None else None) or Canary()


def under_test(spec: RunSpec, status: RunStatus) -> IterationStatus | None:
    """The iteration whose candidate is in its A/B test."""
    iteration = approval.awaited(status)
    if iteration is None or iteration.canary is None or not approval.in_test(spec, iteration):
        return None
    return iteration


def intent(spec: RunSpec, status: RunStatus) -> CanaryIntent | None:
    """Which servers there have to be for it, and what the gateway has to know."""
    iteration = under_test(spec, status)
    if iteration is None or iteration.canary is None:
        return None
    policy = DeployedPolicy(iteration=iteration.iteration, artifact=_candidate(iteration))
    return CanaryIntent(policy, iteration.canary.started_at, settings(spec))


def observed(spec: RunSpec, status: RunStatus, world: ObservedLive, now: datetime) -> tuple[RunStatus, list[Event]]:
    """The status with what is known of the A/B test now, and what is worth telling of it.

    A test that is over stays in the status; what it means for the candidate is settled elsewhere.
    """
    iteration = approval.awaited(status)
    if iteration is None:
        return status, []
    before = iteration.canary
    if not approval.in_test(spec, iteration):
        # Without the strategy nobody was assigned for a while: should it come back, the test starts anew.
        dropped = before is not None and before.finished_at is None
        return (results.with_canary(status, spec, iteration, None) if dropped else status), []
    if before is None:
        if approval.answer(spec, iteration) is not None and not spec.suspend:
            return status, []
        before = CanaryStatus(asked_at=now)
    test = _Test(settings(spec), iteration, world, now)
    after = test.looked_at(before, status)
    begins = after.started_at is not None and after.started_at != before.started_at
    text = f"iteration {iteration.iteration}: the candidate gets {float(after.share or 0):.0%} of new conversations"
    events = [Event("Normal", "CanaryStarted", text)] if begins else []
    return results.with_canary(status, spec, iteration, after), events


def ended_by_hand(spec: RunSpec, status: RunStatus, now: datetime) -> RunStatus:
    """The status where a human answers for a candidate that is in its A/B test."""
    iteration = under_test(spec, status)
    if iteration is None or iteration.canary is None:
        return status
    field, number = "approve" if approval.answer(spec, iteration) else "reject", iteration.iteration
    text = f"spec.promotion.{field} names iteration {number} and ends its A/B test{_so_far(iteration.canary)}."
    ended = iteration.canary.model_copy(update={"finished_at": now, "reason": text})
    return results.with_canary(status, spec, iteration, ended)


def progress(iteration: IterationStatus, status: RunStatus) -> tuple[Reason, str]:
    """What a run says whose candidate is in its A/B test."""
    canary, who = iteration.canary, f"the candidate of iteration {iteration.iteration}"
    if canary is None or canary.started_at is None:
        text = f"{who} waits for servers of its own, for an A/B test"
    else:
        text = f"{who} gets {float(canary.share or 0):.0%} of new conversations{_so_far(canary)}"
    trouble = status.live.trouble if status.live is not None else None
    if trouble is not None:
        return trouble.reason, f"{text}; {trouble.message}"
    return Reason.CANARY_RUNNING, text


def _so_far(canary: CanaryStatus) -> str:
    if not canary.candidate.conversations or not canary.control.conversations:
        return ", of which none counts yet"
    return (
        f": {_rate(canary.candidate)}, the policy before it {_rate(canary.control)}; "
        f"lift {canary.lift:+.4f} ({canary.low:+.4f} to {canary.high:+.4f})"
    )


def _rate(arm: ArmCounts) -> str:
    return f"{arm.outcomes} outcomes of {arm.conversations}"


def _candidate(iteration: IterationStatus) -> ArtifactRef:
    candidate = iteration.artifact(IMPROVE)
    if candidate is None:
        raise ValueError(f"iteration {iteration.iteration} has no candidate")
    return candidate


class _Test:
    """One look at an A/B test."""

    def __init__(self, canary: Canary, iteration: IterationStatus, world: ObservedLive, now: datetime) -> None:
        self.settings = canary
        self.candidate = _candidate(iteration)
        self.world = world
        self.now = now

    def looked_at(self, before: CanaryStatus, status: RunStatus) -> CanaryStatus:
        if status.policy is not None and status.policy.artifact.digest == self.candidate.digest:
            return self._ended(before, "the candidate is the very policy before it, so there is nothing to test.")
        if before.share != self.settings.share:  # the test knows one share only
            before = CanaryStatus(asked_at=before.asked_at, share=self.settings.share)
        if before.started_at is None:
            return self._prepared(before)
        said = self._verdict(before)
        counted = before if said is None else self._counted(before, said)
        if said is not None and said.outcome is not None:
            return counted.model_copy(update={"finished_at": self.now, "outcome": said.outcome, "reason": said.reason})
        return self._cut_short(counted, before.started_at)

    def _prepared(self, canary: CanaryStatus) -> CanaryStatus:
        if self.world.candidate_ready:
            return canary.model_copy(update={"started_at": self.now})
        return self._cut_short(canary, canary.asked_at)

    def _cut_short(self, canary: CanaryStatus, since: datetime) -> CanaryStatus:
        if self.world.candidate_failed:
            return self._ended(canary, f"the candidate's servers failed: {self.world.candidate_failed}")
        if self.now - since > timedelta(seconds=window_seconds(self.settings.max_duration)):
            return self._ended(canary, f"maxDuration {self.settings.max_duration} is over{_so_far(canary)}.")
        return canary

    def _ended(self, canary: CanaryStatus, reason: str) -> CanaryStatus:
        return canary.model_copy(update={"finished_at": self.now, "outcome": "Inconclusive", "reason": reason})

    def _verdict(self, canary: CanaryStatus) -> CanaryVerdict | None:
        """What the report says of this very test."""
        said = self.world.report.verdict if self.world.report is not None else None
        if said is None or canary.started_at is None:
            return None
        this = (self.candidate.digest, canary.started_at.timestamp())
        return said if (said.digest, said.since) == this else None

    def _counted(self, before: CanaryStatus, said: CanaryVerdict) -> CanaryStatus:
        report = self.world.report
        if report is None:
            return before
        figures = {
            "candidate": _counts(report.candidate),
            "control": _counts(report.control),
            "lift": _six(said.lift),
            "low": _six(said.low),
            "high": _six(said.high),
        }
        news = any(getattr(before, name) != value for name, value in figures.items())
        if not news or (said.outcome is None and not due_again(before.counted_at, self.now)):
            return before
        return before.model_copy(update=figures | {"counted_at": self.now})


def _counts(arm: ArmReport | None) -> ArmCounts:
    return ArmCounts(conversations=arm.conversations, outcomes=arm.outcomes) if arm is not None else ArmCounts()


def _six(value: float) -> float:
    """Six digits keep the status small."""
    return float(f"{value:.6g}")
