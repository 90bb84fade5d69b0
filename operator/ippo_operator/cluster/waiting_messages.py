"""Reasons to wait, told so that a text that changes by itself is no news.

The Job controller names another pod in each refusal, the scheduler counts nodes, a quota what is used. Compared as they
are, such texts are a status write and an event each time somebody looks, of every run that waits.
"""

from collections.abc import Hashable
from dataclasses import replace

from ippo_operator.api.status import RunStatus, Waiting
from ippo_operator.cluster import clock
from ippo_operator.plan.essence import essence
from ippo_operator.plan.types import ObservedJob, ObservedLive, ObservedServing

NEWS_EVERY = 300.0
"""Seconds. Another text for the same reason is told so often at most."""


class WaitingMessages:
    """Keeps the text that a run's status has for a reason, as long as it says about the same.

    Args:
        steady: seconds.
    """

    def __init__(self, steady: clock.Steady = clock.steady) -> None:
        self._steady = steady
        self._told: dict[Hashable, float] = {}

    def job(self, run: Hashable, observed: ObservedJob, status: RunStatus | None) -> ObservedJob:
        """The job, with the text that the status has."""
        active = status.active if status is not None else None
        before = active.waiting if active is not None and active.job_name == observed.name else None
        return replace(observed, waiting=self._steady_message((run, "job"), observed.waiting, before))

    def serving(self, run: Hashable, observed: ObservedServing, status: RunStatus | None) -> ObservedServing:
        """The servers, with the texts that the status has."""
        before = status.serving if status is not None else None
        waits, blocked = (before.waiting, before.blocked) if before is not None else (None, None)
        trouble = self._steady_message((run, "servers"), observed.trouble, waits)
        return replace(
            observed, trouble=trouble, blocked=self._steady_message((run, "blocked"), observed.blocked, blocked)
        )

    def live(self, run: Hashable, observed: ObservedLive, status: RunStatus | None) -> ObservedLive:
        """The gateway and a candidate's servers, with the text that the status has."""
        before = status.live.trouble if status is not None and status.live is not None else None
        return replace(observed, trouble=self._steady_message((run, "live"), observed.trouble, before))

    def forget(self, run: Hashable) -> None:
        """The run is gone."""
        for what in ("job", "servers", "blocked", "live"):
            self._told.pop((run, what), None)

    def _steady_message(self, key: Hashable, now: Waiting | None, before: Waiting | None) -> Waiting | None:
        if now is None or before is None or now.reason != before.reason:
            self._told.pop(key, None)
            return now
        if now.message == before.message:
            return now
        last = self._told.get(key)
        recent = last is not None and self._steady() - last < NEWS_EVERY
        if recent or essence(now.message) == essence(before.message):
            return before
        self._told[key] = self._steady()
        return now
