"""The run's Deployment and Service: read fresh, adopted by owner UID only, applied only where they differ."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from ippo_trainer.contract.digests import NO_DIGEST
from ippo_trainer.contract.spec import ArtifactRef, Digest, StoreLocation

from ippo_operator.api.reasons import Reason
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.status import DeployedPolicy, ServedPolicy, ServingStatus, Waiting
from ippo_operator.cluster import clock
from ippo_operator.cluster.client import Client, Manifest
from ippo_operator.cluster.errors import ConflictError
from ippo_operator.cluster.mending import Repair, RepairBackoff, Repairs, put_right, repair
from ippo_operator.cluster.observe import job_state, server_state
from ippo_operator.cluster.resources import DEPLOYMENTS, SERVICES, Key, resource_of
from ippo_operator.manifests import identity
from ippo_operator.manifests.platform import Platform
from ippo_operator.manifests.serving import (
    SERVER,
    NoServerImageError,
    ServingContext,
    serving_deployment,
    serving_service,
    settings_digest,
)
from ippo_operator.manifests.types import PodTemplate
from ippo_operator.plan.types import ObservedServing

LOOK_AGAIN = 60.0
"""Seconds: no event tells that a name is free again, nor that a Service reaches its servers."""
_SOON = 2.0


@dataclass(frozen=True)
class Servers:
    """What there is of a run's serving."""

    observed: ObservedServing
    deployment: Manifest | None = None
    """The run's own."""
    service: Manifest | None = None
    """The run's own."""
    templates: Mapping[tuple[Digest, Digest], PodTemplate] = field(default_factory=dict)
    """Of pods, by policy and settings, as far as the cluster still knows them."""
    context: ServingContext | None = None
    """Of a run that serves."""

    @property
    def look_again(self) -> float | None:
        """Seconds after which to look again because no event would tell."""
        blocked = self.observed.blocked
        if blocked is not None and blocked.reason == Reason.CHILD_CONFLICT:
            return LOOK_AGAIN
        return min(LOOK_AGAIN, max(_SOON, self.observed.watched / 4)) if self.observed.unreached is not None else None


@dataclass(frozen=True)
class Serving:
    """Serves one run's policies in a cluster.

    Args:
        client: of this process.
        run: as the server has it.
        store: where the run's artifacts are.
        platform: the operator's defaults.
    """

    client: Client
    run: IterativePPORun
    store: StoreLocation
    platform: Platform

    @property
    def key(self) -> Key:
        """How the run is told from others in memory."""
        return str(self.run.metadata.namespace), self.run.metadata.name

    @property
    def context(self) -> ServingContext | None:
        """What the servers are made from; None for a run that does not serve."""
        serve = self.run.spec.serve
        return ServingContext(self.run, serve, self.store, self.platform) if serve is not None else None

    @property
    def _status(self) -> ServingStatus | None:
        return self.run.status.serving if self.run.status is not None else None

    async def read(self, stopwatch: "Stopwatch") -> Servers | None:
        """The Deployment and the Service as they are now; None for a run that neither serves nor has to stop serving.

        Raises:
            ApiError: the API server refused, or could not be reached.
        """
        context = self.context
        if context is None and self._status is None:
            return None
        deployment, blocked_deployment = own(self.run, await self.client.get(DEPLOYMENTS, *self.key))
        service, blocked_service = own(self.run, await self.client.get(SERVICES, *self.key))
        exists = deployment is not None or service is not None
        if context is None:
            return Servers(ObservedServing(NO_DIGEST, exists=exists), deployment, service)
        settings, blocked = _settings(context)
        blocked = blocked_deployment or blocked_service or blocked
        servers = Servers(ObservedServing(settings, blocked, exists=exists), deployment, service, context=context)
        if deployment is not None:
            servers = await self._observed(context, deployment, servers)
        watched = stopwatch.seconds(self.key, self._status, servers.observed)
        return replace(servers, observed=replace(servers.observed, watched=watched))

    async def _observed(self, context: ServingContext, deployment: Manifest, servers: Servers) -> Servers:
        """With how the servers are doing. Old pod templates and pods are read only while a roll-out is not over."""
        status = self._status
        observed = server_state.observe(deployment, servers.observed)
        if observed.available:
            name = self.run.metadata.name
            unreached = await server_state.unreached(self.client, name, servers.service, observed.available)
            observed = replace(observed, unreached=unreached)
        templates = server_state.templates([deployment])
        if status is None or status.failed is not None or status.waiting_since is not None or not observed.available:
            labels = f"{identity.RUN_UID}={self.run.metadata.uid},{identity.COMPONENT}={SERVER}"
            policies = (status.active, status.target, status.failed) if status is not None else ()
            identities = {(policy.digest, policy.settings) for policy in policies if policy is not None}
            past = await server_state.read_history(self.client, deployment, labels, identities)
            templates |= past.templates  # as applied, where somebody edits the Deployment now
            observed = replace(observed, trouble=server_state.trouble(deployment, past.pods))
        observed = replace(observed, restorable=frozenset(templates))
        servers = replace(servers, observed=observed, templates=templates)
        target = status.target if status is not None else None
        as_asked = target is not None and not _repairs(context, target, servers)
        return replace(servers, observed=replace(observed, as_asked=as_asked))

    async def carry_out(self, target: ServedPolicy, servers: Servers, backoff: RepairBackoff) -> Repairs:
        """Puts right what is not as it should be; what is refused of one object does not hold up the other.

        Raises:
            ApiError: the API server refused, or could not be reached.
            ConflictError: the object is another one by now.
        """
        if servers.context is None:
            raise ValueError("the run does not serve")
        return await put_right(self.client, _repairs(servers.context, target, servers), backoff)

    async def remove(self, servers: Servers) -> None:
        """Deletes the Deployment and the Service, if they are the run's."""
        await remove(self.client, (servers.deployment, servers.service))


async def remove(client: Client, own_objects: Iterable[Manifest | None]) -> None:
    """Deletes what there is of a run's own objects, and is not on its way out."""
    for child in own_objects:
        if child is None or "deletionTimestamp" in child["metadata"]:
            continue
        metadata = child["metadata"]
        with suppress(ConflictError):  # another object has the name by now; ours is gone
            await client.delete(resource_of(child), metadata["namespace"], metadata["name"], str(metadata["uid"]))


def own(run: IterativePPORun, child: Manifest | None) -> tuple[Manifest | None, Waiting | None]:
    """The object if it is the run's; what to say where it has a name of the run's and another owner."""
    if child is None or job_state.is_ours(child, run.metadata.uid):
        return child, None
    what = f"{child['kind']} {run.metadata.namespace}/{child['metadata']['name']}"
    text = f"{what} exists and is not this run's; delete it, or give the run another name"
    return None, Waiting(reason=Reason.CHILD_CONFLICT, message=text)


def _settings(context: ServingContext) -> tuple[Digest, Waiting | None]:
    try:
        return settings_digest(context), None
    except NoServerImageError as error:
        return NO_DIGEST, Waiting(reason=Reason.NO_SERVER_IMAGE, message=str(error))


def _repairs(context: ServingContext, target: ServedPolicy, servers: Servers) -> list[Repair]:
    """What is wrong; nothing while an object of that name is on its way out."""
    template: PodTemplate | None = None
    if target.settings != servers.observed.settings:  # the spec does not ask for these servers any more
        template = servers.templates.get((target.digest, target.settings))
        if template is None:
            return []  # they are not known any more; the next pass goes for others
    policy = DeployedPolicy(iteration=target.iteration, artifact=ArtifactRef(key=target.key, digest=target.digest))
    deployment = serving_deployment(context, policy, template)
    leave_replicas(deployment, servers.deployment)
    service = serving_service(context)
    repairs = (repair(deployment, servers.deployment), repair(service, servers.service))
    return [due for due in repairs if due is not None]


def leave_replicas(deployment: Manifest, there: Manifest | None) -> None:
    """A number that changed since ours was applied is somebody else's, until the run asks for another one."""
    if there is None:
        return
    wanted = deployment["spec"]["replicas"]
    applied = (there["metadata"].get("annotations") or {}).get(identity.REPLICAS)
    if applied == str(wanted) and there["spec"].get("replicas", 1) != wanted:
        del deployment["spec"]["replicas"]


class Stopwatch:
    """For how long servers have got no further, by a clock that never jumps.

    The status says since when they are waited for, but by the clock of whoever wrote it: a clock that is an hour off,
    or set meanwhile, would undo roll-outs that go well. Another process measures anew; the Deployment controller, which
    has the same deadline, does not wait for it.

    Args:
        steady: seconds that go on.
    """

    def __init__(self, steady: clock.Steady = clock.steady) -> None:
        self._steady = steady
        self._since: dict[Key, tuple[object, float]] = {}

    def seconds(self, key: Key, serving: ServingStatus | None, observed: ObservedServing) -> float:
        """For how long this very thing has been seen."""
        where, at = self._since.get(key, (None, 0.0))
        return self._steady() - at if where is not None and where == _where(serving, observed) else 0.0

    def look(self, key: Key, serving: ServingStatus | None, observed: ObservedServing) -> None:
        """Takes note of how far servers are; any news starts the measurement again."""
        where = _where(serving, observed)
        if where is None:
            self.forget(key)
        elif self._since.get(key, (None, 0.0))[0] != where:
            self._since[key] = where, self._steady()

    def forget(self, key: Key) -> None:
        """There is nothing to measure."""
        self._since.pop(key, None)


def _where(serving: ServingStatus | None, observed: ObservedServing) -> object:
    """How far they are; None where they are not waited for."""
    if serving is None or serving.target is None or serving.waiting_since is None:
        return None
    target = serving.target.digest, serving.target.settings, serving.waiting_since
    progress = observed.policy, observed.template, observed.fresh, observed.progressed_at
    return target, progress, observed.updated, observed.available, observed.unreached is None
