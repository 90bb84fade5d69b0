"""Writes a run's status: the planner's, or conditions that say why nothing is done.

Where a status cannot be written, an event on the run says so: nothing else would tell its owner.
"""

import logging
from collections.abc import Hashable
from datetime import datetime

from ippo_operator.api.reasons import Reason
from ippo_operator.api.status import short, to_rfc3339
from ippo_operator.cluster.client import Client, Manifest
from ippo_operator.cluster.errors import ApiError, ConflictError, ForbiddenError, InvalidError, NotFoundError
from ippo_operator.cluster.events import EventWriter
from ippo_operator.cluster.remedies import with_remedy
from ippo_operator.cluster.resources import RUNS
from ippo_operator.plan.conditions import refusal
from ippo_operator.plan.types import Event

_IN_A_ROW = 8
"""Conflicts and answers such as 500 pass by themselves, if no more than so many follow each other."""
_BUSY = (
    "somebody else changes this run each time that its status is written. Find out who, by managedFields of the run, "
    "and have that stopped"
)
_log = logging.getLogger("ippo.reconcile")


class StatusWriter:
    """Writes statuses of runs.

    Args:
        events: tells of those that cannot be written.
    """

    def __init__(self, events: EventWriter) -> None:
        self._events = events
        self._failures: dict[Hashable, int] = {}

    async def write(self, client: Client, raw: Manifest, status: Manifest) -> Manifest:
        """Returns the run as it is on the server now, its spec apart.

        Raises:
            ConflictError: the run changed since it was read.
            ApiError: the API server refused, or could not be reached.
        """
        metadata = raw["metadata"]
        try:
            written = await client.replace(
                RUNS, metadata["namespace"], metadata["name"], raw | {"status": status}, "status"
            )
        except ApiError as error:
            await self._failed(raw, error)
            raise
        self.forget((metadata["namespace"], metadata["name"]))
        return raw | {"status": status, "metadata": written["metadata"]}

    def forget(self, run: Hashable) -> None:
        """Its status could be written, or it is gone."""
        self._failures.pop(run, None)

    async def _failed(self, raw: Manifest, error: ApiError) -> None:
        if isinstance(error, NotFoundError):
            return
        key = (raw["metadata"]["namespace"], raw["metadata"]["name"])
        self._failures[key] = self._failures.get(key, 0) + 1
        final = isinstance(error, (ForbiddenError, InvalidError)) or "too large" in str(error)
        if final or self._failures[key] >= _IN_A_ROW:
            why = _BUSY if isinstance(error, ConflictError) else with_remedy(str(error))
            event = Event("Warning", "StatusNotWritten", f"the status is not up to date, and nothing goes on: {why}")
            _log.warning("%s: %s", event.reason, event.message)
            await self._events.write(raw, event)


def refused(raw: Manifest, problem: str, now: datetime, reason: Reason) -> Manifest | None:
    """The status of a run that cannot be worked on although the API server took it; None where it says so already.

    The conditions tell of the problem, and all else stays as it was. Once the spec is mended, a pass rewrites them.
    """
    generation = raw["metadata"]["generation"]
    old = raw.get("status") or {}
    conditions = {condition["type"]: condition for condition in old.get("conditions") or ()}
    for row in refusal(reason, short(problem)):
        before = conditions.get(row.kind, {})
        same = before.get("status") == row.truth
        conditions[row.kind] = {
            "type": row.kind,
            "status": row.truth,
            "reason": str(row.reason),
            "message": row.message,
            "observedGeneration": generation,
            "lastTransitionTime": before["lastTransitionTime"] if same else to_rfc3339(now),
        }
    status = old | {"conditions": list(conditions.values()), "observedGeneration": generation}
    return status if status != old else None
