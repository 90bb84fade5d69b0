"""Events of a run, as `kubectl describe` and `kubectl events` show them."""

import hashlib
import logging

from ippo_operator.cluster import clock
from ippo_operator.cluster.client import Client, Manifest
from ippo_operator.cluster.errors import AlreadyExistsError, ApiError
from ippo_operator.cluster.resources import EVENTS
from ippo_operator.plan.types import Event

CONTROLLER = "ippo.dev/operator"
_log = logging.getLogger("ippo.events")


class EventWriter:
    """Writes events; one that cannot be written is logged and forgotten, it says nothing that the status does not.

    Args:
        client: of this process.
        instance: of this process, e.g. its pod's name.
        wall: the time.
    """

    def __init__(self, client: Client, instance: str, wall: clock.Wall = clock.wall) -> None:
        self._client = client
        self._instance = instance[:128]
        self._wall = wall

    async def write(self, about: Manifest, event: Event) -> None:
        """Tells of something that the status already says.

        Args:
            about: the run as the server returned it; its resourceVersion makes the event's name, so that the same
                event of the same status is never there twice.
            event: what happened.
        """
        try:
            await self._client.create(EVENTS, about["metadata"]["namespace"], self._manifest(about, event))
        except AlreadyExistsError:
            return
        except ApiError as error:
            _log.warning("event %s of %s not written: %s", event.reason, about["metadata"]["name"], error)

    def _manifest(self, about: Manifest, event: Event) -> Manifest:
        metadata = about["metadata"]
        identity = "/".join([metadata["uid"], metadata["resourceVersion"], event.reason, event.message])
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": f"{metadata['name']}.{digest}", "namespace": metadata["namespace"]},
            "eventTime": self._wall().strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
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
