"""Which policy is served, and how far its roll-out is.

The current policy is served, from the warm start on: what collects is what answers. Every pass compares what should be
with what is, whatever the rest of the run does, so a Deployment that somebody deletes comes back. A roll-out that does
not get ready in time is undone, and its policy is not tried again until somebody changes what could help.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ippo_trainer.contract.digests import digest_of
from ippo_trainer.contract.spec import Digest

from ippo_operator.api.reasons import Reason
from ippo_operator.api.resource import RunSpec
from ippo_operator.api.run_sections import Serve
from ippo_operator.api.status import FailedRollout, RunStatus, ServedPolicy, ServingStatus, Waiting
from ippo_operator.plan.types import Event, ObservedServing

_AHEAD = timedelta(minutes=5)
_LAG = 10.0
"""Seconds in which the cluster has made a Service's endpoints; saying that there are none would be noise."""


@dataclass(frozen=True)
class ServingPlan:
    """What becomes of serving."""

    serving: ServingStatus | None
    serve: ServedPolicy | None = None
    unserve: bool = False
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None


def plan_serving(spec: RunSpec, status: RunStatus, observed: ObservedServing, now: datetime) -> ServingPlan:
    """What to serve now.

    Args:
        spec: of the run.
        status: after all else that this pass decides: its policy is what should be served.
        observed: the Deployment, read after the run was.
        now: the time, with a zone.
    """
    if spec.serve is None:
        absent = status.serving is None or not observed.exists
        return ServingPlan(None if absent else status.serving, unserve=not absent)
    if status.policy is None:
        return ServingPlan(status.serving)
    artifact = status.policy.artifact
    latest = ServedPolicy(
        iteration=status.policy.iteration, digest=artifact.digest, key=artifact.key, settings=observed.settings
    )
    before = status.serving or ServingStatus()
    return _Rollout(spec.serve, _retry_digest(spec), before=before, latest=latest, observed=observed, now=now).plan()


def _retry_digest(spec: RunSpec) -> Digest:
    """Of what people can change, besides the servers' pods, to have a failed roll-out tried again."""
    serve = spec.serve.model_dump(mode="json", by_alias=True, exclude_none=True) if spec.serve is not None else None
    return digest_of({"serve": serve, "requested": spec.retries.requested or 0})


def trouble(serving: ServingStatus | None) -> tuple[Reason, str] | None:
    """Why the latest policy is not what is served, and will not be unless something changes."""
    if serving is None:
        return None
    waiting = serving.waiting
    late = waiting if waiting is not None and waiting.reason == Reason.ROLLOUT_TIMED_OUT else None
    why = serving.blocked or late or serving.failed
    return (why.reason, why.message) if why is not None else None


def all_are_up(observed: ObservedServing) -> bool:
    """Whether all servers of the Deployment's newest pod template take requests, and those before them are gone."""
    return observed.available >= observed.replicas and observed.total <= observed.updated >= observed.replicas


def one_is_up(observed: ObservedServing) -> bool:
    """Whether a server of the Deployment's newest pod template takes requests, and those before them are gone."""
    return observed.available > 0 and observed.total <= observed.updated


def rolling_out(serving: ServingStatus) -> str:
    """What a run that waits for its servers waits for."""
    number = serving.target.iteration if serving.target is not None else 0
    cause = f": {serving.waiting.message}" if serving.waiting is not None else ""
    return f"the servers of iteration {number}'s policy are not ready yet{cause}"


class _Rollout:
    """One pass; `serving` is what it has come to so far."""

    def __init__(
        self,
        serve: Serve,
        retry_digest: Digest,
        before: ServingStatus,
        latest: ServedPolicy,
        observed: ObservedServing,
        now: datetime,
    ) -> None:
        self.serve = serve
        self.retry_digest = retry_digest
        self.before = before
        self.serving = before
        self.latest = latest
        self.observed = observed
        self.now = now
        self.watched = observed.watched
        self.events: list[Event] = []

    def plan(self) -> ServingPlan:
        if self.observed.blocked is not None:
            self._block(self.observed.blocked)
            return self._plan(None)
        self._aim()
        if self._still_refused():
            return self._plan(self.serving.target)
        self._update(blocked=None)
        wait = self._observe_progress()
        return self._plan(self.serving.target, wait)

    def _plan(self, target: ServedPolicy | None, wait: float | None = None) -> ServingPlan:
        return ServingPlan(self.serving, target, events=tuple(self.events), requeue_after=wait)

    def _update(self, **changes: Any) -> None:
        self.serving = self.serving.model_copy(update=changes)

    def _tell(self, reason: Reason, message: str) -> None:
        self.events.append(Event("Warning", reason, message))

    # What should be served

    def _block(self, why: Waiting) -> None:
        """Time in which nothing can be rolled out does not count."""
        if self.before.blocked != why:
            self._tell(why.reason, why.message)
        self._update(blocked=why, waiting_since=None, waiting=None)

    def _aim(self) -> None:
        failed = self.before.failed if self.latest.same(self.before.failed) else None
        # A verdict of the future is that of a clock that was wrong.
        again = failed is not None and (
            failed.retry_digest not in {None, self.retry_digest} or failed.time > self.now + _AHEAD
        )
        failed = None if again else failed
        target = self.latest
        if failed is not None and not failed.same(self.before.target):
            target = self._way_back(failed) or self.latest
        self._update(failed=failed)
        if again or not target.same(self.before.target):
            self._go_for(target)
            text = f"the policy of iteration {target.iteration} is rolled out"
            self.events.append(Event("Normal", Reason.ROLLING_OUT, text))
        elif self.before.target is not None and self.before.target.iteration != target.iteration:
            self._update(target=target)

    def _go_for(self, target: ServedPolicy) -> None:
        stale = self.observed.progressed_at if self.observed.exceeded else None
        self._update(target=target, waiting_since=self.now, stale_progress_time=stale, waiting=None)
        self.watched = 0.0

    def _way_back(self, failed: ServedPolicy) -> ServedPolicy | None:
        """The last servers that got ready, as they were or at least with that policy."""
        active = self.before.active
        if active is None:
            return None
        can_be_restored = (
            active.settings == self.latest.settings or (active.digest, active.settings) in self.observed.restorable
        )
        is_there = (self.observed.policy, self.observed.template) == (active.digest, active.settings)
        if can_be_restored or is_there:
            return active
        renewal = active.model_copy(update={"settings": self.latest.settings})
        return None if renewal.same(failed) else renewal

    def _still_refused(self) -> bool:
        """What the API server refused is refused until it is seen to be there; saying so again would be a write."""
        blocked, target = self.before.blocked, self.serving.target
        refused = blocked is not None and blocked.reason == Reason.CHILD_REFUSED
        return refused and not self.observed.as_asked and target is not None and target.same(self.before.target)

    # How far it is

    def _observe_progress(self) -> float | None:
        """Takes note of how the target is doing; returns the seconds that it still has."""
        target = self.serving.target
        if target is None:
            raise ValueError("nothing is to be served")
        if self._ready(target):
            self._arrive(target)
            return None
        self._update(waiting_since=self.serving.waiting_since or self.now, waiting=self._waits(target))
        seconds, about = self.serve.progress_deadline_seconds - self.watched, self._status_is_about(target)
        if seconds > 0 and not (about and self._given_up()):
            return seconds
        if about:
            return self._deadline_passed(target)
        self._update(waiting_since=self.now)  # nobody has tried yet
        return float(self.serve.progress_deadline_seconds)

    def _status_is_about(self, target: ServedPolicy) -> bool:
        """Whether what the Deployment says is about the target."""
        return self.observed.fresh and self._deployment_has(target)

    def _deployment_has(self, target: ServedPolicy) -> bool:
        return (self.observed.policy, self.observed.template) == (target.digest, target.settings)

    def _given_up(self) -> bool:
        """Whether the Deployment says that it took too long, and not of the servers before these."""
        progress_time = self.observed.progressed_at
        return (
            self.observed.exceeded and progress_time is not None and progress_time != self.serving.stale_progress_time
        )

    def _ready(self, target: ServedPolicy) -> bool:
        """Whether requests get to servers of the target."""
        return self._servers_are_up(target) and (self.observed.unreached is None or self.observed.replicas == 0)

    def _servers_are_up(self, target: ServedPolicy) -> bool:
        """New servers take over when all of them are up; later on, one of them is enough."""
        if target.same(self.serving.active) and self.serving.waiting_since is None:
            return self._deployment_has(target) and (self.observed.available > 0 or self.observed.replicas == 0)
        return self._status_is_about(target) and all_are_up(self.observed)

    def _arrive(self, target: ServedPolicy) -> None:
        if not target.same(self.before.active):
            text = f"the policy of iteration {target.iteration} is served"
            self.events.append(Event("Normal", "RolledOut", text))
        over = target.same(self.serving.failed)
        failed = None if over else self.serving.failed
        self._update(active=target, waiting_since=None, stale_progress_time=None, waiting=None, failed=failed)

    def _waits(self, target: ServedPolicy) -> Waiting | None:
        """A cause keeps its first words: a kubelet finds new ones for the same trouble all the time."""
        trouble, before = self.observed.trouble, self.serving.waiting
        if self._servers_are_up(target) and self.watched >= _LAG:
            trouble = self.observed.unreached
        if trouble is None:
            return before if before is not None and before.reason == Reason.ROLLOUT_TIMED_OUT else None
        if before is not None and before.reason in {trouble.reason, Reason.ROLLOUT_TIMED_OUT}:
            return before
        self._tell(trouble.reason, trouble.message)
        return trouble

    def _deadline_passed(self, target: ServedPolicy) -> float | None:
        failed = self.serving.failed
        on_the_way_back = failed is not None and not target.same(failed)
        if self._servers_are_up(target) or target.same(self.serving.active) or on_the_way_back:
            self._never_came_back(target)
            return None
        back = self._way_back(target) if self.serve.on_failure == "Rollback" else None
        if failed is not None and back is None:
            return None  # told before
        reason = Reason.ROLLED_BACK if back is not None else Reason.ROLLOUT_TIMED_OUT
        text = f"the servers of iteration {target.iteration}'s policy were not ready within {self._deadline()}"
        text += f" ({self._cause()}). " if self._cause() else ". "
        text += self._what_now(back)
        failed = FailedRollout(
            **dict(target), reason=reason, message=text, time=self.now, retry_digest=self.retry_digest
        )
        self._update(failed=failed)
        self._tell(reason, failed.message)
        if back is not None:
            self._go_for(back)
        return float(self.serve.progress_deadline_seconds) if back is not None else None

    def _never_came_back(self, target: ServedPolicy) -> None:
        if self.serving.waiting is not None and self.serving.waiting.reason == Reason.ROLLOUT_TIMED_OUT:
            return
        cause = f": {self._cause()}" if self._cause() else ""
        some = (
            f"only {self.observed.available} of {self.observed.replicas} servers"
            if self.observed.available
            else "no server"
        )
        whose = f"of iteration {target.iteration}'s policy"
        outcome = f"no request got to a server {whose}" if self._servers_are_up(target) else f"{some} {whose} got ready"
        text = f"{outcome} within {self._deadline()}{cause}"
        self._update(waiting=Waiting(reason=Reason.ROLLOUT_TIMED_OUT, message=text))
        self._tell(Reason.ROLLOUT_TIMED_OUT, text)

    def _deadline(self) -> str:
        return f"spec.serve.progressDeadlineSeconds, {self.serve.progress_deadline_seconds} s"

    def _cause(self) -> str:
        return self.serving.waiting.message.rstrip(". ") if self.serving.waiting is not None else ""

    def _what_now(self, back: ServedPolicy | None) -> str:
        again = "It is tried again when spec.serve or spec.pods.serve changes, or with ippo retry; "
        again += "the next promotion is tried in any case."
        if back is not None:
            return f"The policy of iteration {back.iteration} is rolled out again. {again}"
        if self.serve.on_failure == "Hold":
            return f"They are left as they are, as spec.serve.onFailure says. {again}"
        return f"There is nothing to go back to. {again}"
