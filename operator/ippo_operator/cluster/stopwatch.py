"""For how long servers have got no further, by a clock that never jumps.

The status says since when they are waited for, but by the clock of whoever wrote it: a clock that is an hour off, or
set meanwhile, would undo roll-outs that go well. Another process measures anew; the Deployment controller, which has
the same deadline, does not wait for it.
"""

from typing import TypeAlias

from ippo_operator.api.status import ServingStatus
from ippo_operator.cluster import clock
from ippo_operator.plan.types import ObservedServing

Key: TypeAlias = tuple[str, str]
"""Namespace and name of a run."""


class Stopwatch:
    """Measures the servers of all runs.

    Args:
        steady: seconds that go on.
    """

    def __init__(self, steady: clock.Steady = clock.steady) -> None:
        self._steady = steady
        self._since: dict[Key, tuple[object, float]] = {}

    def seconds(self, key: Key, serving: ServingStatus | None, seen: ObservedServing) -> float:
        """For how long this very thing has been seen."""
        where, at = self._since.get(key, (None, 0.0))
        return self._steady() - at if where is not None and where == _where(serving, seen) else 0.0

    def look(self, key: Key, serving: ServingStatus | None, seen: ObservedServing) -> None:
        """Takes note of how far servers are; any news starts the measurement again."""
        where = _where(serving, seen)
        if where is None:
            self.forget(key)
        elif self._since.get(key, (None, 0.0))[0] != where:
            self._since[key] = where, self._steady()

    def forget(self, key: Key) -> None:
        """There is nothing to measure."""
        self._since.pop(key, None)


def _where(serving: ServingStatus | None, seen: ObservedServing) -> object:
    """How far they are; None where they are not waited for."""
    if serving is None or serving.target is None or serving.waiting_since is None:
        return None
    asked = serving.target.digest, serving.target.settings, serving.waiting_since
    there = seen.policy, seen.template, seen.fresh, seen.progressed_at, seen.updated, seen.available
    return asked, there, seen.unreached is None
