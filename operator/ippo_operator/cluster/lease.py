"""A Lease as the fence between operator processes: one acts, the others wait; who lost it does not write.

The holder renews; everyone else watches whether the Lease's resourceVersion changes. A Lease that did not change for
its whole duration, by the watcher's own clock, is free: clocks of different machines are never compared.

What a lease cannot do: a write that was on its way when the process was paused may arrive late. Such a write is
harmless by itself, because status writes carry a resourceVersion and children are create-only under fixed names. The
fence keeps a process that lost the lease from starting another one.
"""

import logging
from dataclasses import dataclass
from typing import Any

from ippo_operator.cluster import clock
from ippo_operator.cluster.client import Client, Manifest
from ippo_operator.cluster.errors import AlreadyExistsError, ApiError, ConflictError, FencedError
from ippo_operator.cluster.resources import LEASES

_log = logging.getLogger("ippo.lease")


@dataclass(frozen=True)
class LeaseTimes:
    """All in seconds."""

    duration: int = 15
    """Others take over so long after the last renewal that they saw."""
    renew_every: float = 5.0
    margin: float = 3.0
    """The holder stops writing so long before others may take over."""


class Lease:
    """One Lease object, seen by one process.

    Args:
        client: must not be fenced by this lease.
        namespace: of the Lease.
        name: of the Lease.
        identity: of this process, unlike every other one's.
        times: of holding and renewing.
        steady: a clock that goes on while the process is paused.
        wall: for the times that people read in the Lease.
    """

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        identity: str,
        times: LeaseTimes | None = None,
        steady: clock.Steady = clock.steady,
        wall: clock.Wall = clock.wall,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self.identity = identity
        self.times = times or LeaseTimes()
        self._steady = steady
        self._wall = wall
        self._held_until: float | None = None
        self._seen_version: str | None = None
        self._seen_at = 0.0
        self.last_answer: float | None = None
        """When the API server last answered, by the steady clock."""

    @property
    def held(self) -> bool:
        """Whether this process may write now."""
        return self._held_until is not None and self._steady() < self._held_until

    def check(self) -> None:
        """Raises FencedError unless this process holds the lease."""
        if not self.held:
            raise FencedError(f"{self.identity} does not hold the lease {self._namespace}/{self._name}")

    async def tick(self) -> bool:
        """Renews, acquires or just looks; to be called every `renew_every` seconds. Returns whether it is held.

        Errors of the API server are logged: the lease then runs out by itself.
        """
        try:
            await self._tick()
            self.last_answer = self._steady()
        except (AlreadyExistsError, ConflictError):
            self._drop("another process changed it")
        except ApiError as error:
            _log.warning("lease not renewed: %s", error)
        if self._held_until is not None and not self.held:
            self._drop("it could not be renewed in time")
        return self.held

    async def _tick(self) -> None:
        started = self._steady()
        lease = await self._client.get(LEASES, self._namespace, self._name)
        if lease is None:
            await self._client.create(LEASES, self._namespace, self._manifest(None, 0))
            self._take(started)
            return
        if not self._may_take(lease, started):
            if self._held_until is not None:
                self._drop(f"{_spec(lease).get('holderIdentity')} has it")
            return
        transitions = int(_spec(lease).get("leaseTransitions") or 0)
        changed_hands = _spec(lease).get("holderIdentity") != self.identity
        manifest = self._manifest(lease, transitions + changed_hands)
        await self._client.replace(LEASES, self._namespace, self._name, manifest)
        self._take(started)

    def _may_take(self, lease: Manifest, now: float) -> bool:
        spec, version = _spec(lease), str(lease["metadata"]["resourceVersion"])
        if version != self._seen_version:
            self._seen_version, self._seen_at = version, now
        holder = spec.get("holderIdentity")
        if not holder or holder == self.identity:
            return True
        return now - self._seen_at >= int(spec.get("leaseDurationSeconds") or self.times.duration)

    def _take(self, started: float) -> None:
        if self._held_until is None:
            _log.info("lease %s/%s acquired by %s", self._namespace, self._name, self.identity)
        # Counted from before the request: others count from a renewal that they saw later than that.
        self._held_until = started + self.times.duration - self.times.margin

    def _drop(self, why: str) -> None:
        if self._held_until is not None:
            _log.warning("lease %s/%s lost: %s", self._namespace, self._name, why)
        self._held_until = None

    async def release(self) -> None:
        """Lets others take over at once. Call it when nothing is being written any more."""
        if self._held_until is None:
            return
        self._held_until = None
        try:
            lease = await self._client.get(LEASES, self._namespace, self._name)
            if lease is None or _spec(lease).get("holderIdentity") != self.identity:
                return
            lease["spec"] = _spec(lease) | {"holderIdentity": "", "leaseDurationSeconds": 1}
            await self._client.replace(LEASES, self._namespace, self._name, lease)
            _log.info("lease %s/%s released", self._namespace, self._name)
        except ApiError as error:
            _log.warning("lease not released, others wait until it runs out: %s", error)

    def _manifest(self, lease: Manifest | None, transitions: int) -> Manifest:
        now = self._wall().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = _spec(lease) if lease is not None else {}
        same = before.get("holderIdentity") == self.identity
        metadata: Manifest = {"name": self._name, "namespace": self._namespace}
        if lease is not None:
            metadata = {**lease["metadata"]}
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": metadata,
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": self.times.duration,
                "acquireTime": before.get("acquireTime", now) if same else now,
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }


def _spec(lease: Manifest) -> dict[str, Any]:
    spec: dict[str, Any] = lease.get("spec") or {}
    return spec
