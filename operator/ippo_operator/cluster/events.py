"""Events of a run, as `kubectl describe` and `kubectl events` show them."""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass

from ippo_operator.api.resource import GROUP
from ippo_operator.cluster import clock
from ippo_operator.cluster.client import Client, Manifest
from ippo_operator.cluster.errors import AlreadyExistsError, ApiError, NotFoundError
from ippo_operator.cluster.resources import EVENTS
from ippo_operator.plan.essence import essence
from ippo_operator.plan.types import Event

CONTROLLER = f"{GROUP}/operator"
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
_REFRESH = 600.0
"""Seconds between two writes of a series' count; the second time is written at once."""
_KNOWN = 2000
_log = logging.getLogger("ippo.events")


@dataclass
class _Series:
    """A warning that was told before."""

    name: str
    """Of the Event."""
    count: int
    written: float
    """When the Event was last written, by the steady clock."""


class EventWriter:
    """Writes events; one that cannot be written is logged and forgotten, it says nothing that the status does not.

    A warning that is told again is no event of its own: the first one becomes a series, and its count is written every
    ten minutes at most.

    Args:
        client: of this process.
        instance: of this process, e.g. its pod's name.
        wall: the time.
        steady: seconds.
    """

    def __init__(
        self, client: Client, instance: str, wall: clock.Wall = clock.wall, steady: clock.Steady = clock.steady
    ) -> None:
        self._client = client
        self._instance = instance[:128]
        self._wall = wall
        self._steady = steady
        self._series: OrderedDict[Hashable, _Series] = OrderedDict()

    async def write(self, about: Manifest, event: Event) -> None:
        """Tells of something that the status already says.

        Args:
            about: the run as the server returned it; its resourceVersion makes the event's name, so that the same
                event of the same status is never there twice.
            event: what happened.
        """
        key = (about["metadata"]["uid"], event.type, event.reason, essence(event.message))
        series = self._series.get(key) if event.type == "Warning" else None
        try:
            if series is None or not await self._counted(about, series):
                name = await self._create(about, event)
                if event.type == "Warning":
                    self._remember(key, _Series(name, 1, self._steady()))
        except ApiError as error:
            _log.warning("event %s of %s not written: %s", event.reason, about["metadata"]["name"], error)

    async def _create(self, about: Manifest, event: Event) -> str:
        manifest = self._manifest(about, event)
        with suppress(AlreadyExistsError):
            await self._client.create(EVENTS, about["metadata"]["namespace"], manifest)
        return str(manifest["metadata"]["name"])

    async def _counted(self, about: Manifest, series: _Series) -> bool:
        """Whether the event is part of that series now; False where the API server has let go of it."""
        series.count += 1
        if self._steady() - series.written < _REFRESH and series.count > 2:
            return True
        last = self._wall().strftime(_TIME)
        try:
            await self._client.merge(
                EVENTS,
                about["metadata"]["namespace"],
                series.name,
                {"series": {"count": series.count, "lastObservedTime": last}},
            )
        except NotFoundError:
            return False
        series.written = self._steady()
        return True

    def _remember(self, key: Hashable, series: _Series) -> None:
        self._series[key] = series
        if len(self._series) > _KNOWN:
            self._series.popitem(last=False)

    def _manifest(self, about: Manifest, event: Event) -> Manifest:
        metadata = about["metadata"]
        identity = "/".join([metadata["uid"], metadata["resourceVersion"], event.reason, event.message])
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": f"{metadata['name']}.{digest}", "namespace": metadata["namespace"]},
            "eventTime": self._wall().strftime(_TIME),
            "type": event.type,
            "reason": str(event.reason),
            "action": "Reconcile",
            "note": event.message,
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "regarding": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
            },
        }
