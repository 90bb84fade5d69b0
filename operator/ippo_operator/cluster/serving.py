"""The run's Deployment and Service: read fresh, adopted by owner UID only, applied only where they differ."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ippo_trainer.contract.digests import NO_DIGEST
from ippo_trainer.contract.spec import ArtifactRef, Digest, StoreLocation

from ippo_operator.api.cluster import Serve
from ippo_operator.api.reasons import Reason
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.status import DeployedPolicy, ServedPolicy, Waiting
from ippo_operator.cluster import history, reach, servers
from ippo_operator.cluster import pods as pod_facts
from ippo_operator.cluster.children import refusal
from ippo_operator.cluster.client import Client, Manifest
from ippo_operator.cluster.errors import ApiError, ConflictError
from ippo_operator.cluster.mending import Patience, Repair, mend, repair
from ippo_operator.cluster.resources import DEPLOYMENTS, SERVICES, Resource
from ippo_operator.cluster.stopwatch import Key, Stopwatch
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


def key_of(run: IterativePPORun) -> Key:
    """How a run is told from others in memory."""
    return str(run.metadata.namespace), run.metadata.name


async def read(
    client: Client, run: IterativePPORun, store: StoreLocation, platform: Platform, stopwatch: Stopwatch
) -> Servers | None:
    """The run's Deployment and Service as they are now; None for a run that neither serves nor has to stop serving.

    Raises:
        ApiError: the API server refused, or could not be reached.
    """
    serve, before = run.spec.serve, run.status.serving if run.status is not None else None
    if serve is None and before is None:
        return None
    namespace, name = str(run.metadata.namespace), run.metadata.name
    deployment = await client.get(DEPLOYMENTS, namespace, name)
    service = await client.get(SERVICES, namespace, name)
    taken = [_foreign(found, run) for found in (deployment, service)]
    deployment, service = (None if taken[0] else deployment), (None if taken[1] else service)
    exists = deployment is not None or service is not None
    if serve is None:
        return Servers(ObservedServing(NO_DIGEST, exists=exists), deployment, service)
    context = ServingContext(run, serve, store, platform)
    settings, blocked = _settings(context)
    conflict = next((text for text in taken if text), None)
    if conflict is not None:
        blocked = Waiting(reason=Reason.CHILD_CONFLICT, message=conflict)
    found = Servers(ObservedServing(settings, blocked, exists=exists), deployment, service, context=context)
    found = await _looked_at(client, context, found)
    watched = stopwatch.seconds(key_of(run), before, found.observed)
    return replace(found, observed=replace(found.observed, watched=watched))


def _foreign(found: Manifest | None, run: IterativePPORun) -> str:
    """What to say about an object that has the run's name and another owner; nothing about one of ours."""
    if found is None or pod_facts.controller_uid(found) == run.metadata.uid:
        return ""
    what = f"{found['kind']} {run.metadata.namespace}/{run.metadata.name}"
    return f"{what} exists and is not this run's; delete it, or give the run another name"


def _settings(context: ServingContext) -> tuple[Digest, Waiting | None]:
    try:
        return settings_digest(context), None
    except NoServerImageError as error:
        return NO_DIGEST, Waiting(reason=Reason.NO_SERVER_IMAGE, message=str(error))


async def _looked_at(client: Client, context: ServingContext, found: Servers) -> Servers:
    """With how the servers are doing. Old pod templates and pods are read only while a roll-out is not over."""
    if found.deployment is None:
        return found
    run = context.run
    observed = servers.observe(found.deployment, found.observed)
    if observed.available:
        unreached = await reach.unreached(client, run.metadata.name, found.service, observed.available)
        observed = replace(observed, unreached=unreached)
    status = run.status.serving if run.status is not None else None
    templates = servers.templates([found.deployment])
    if status is None or status.failed is not None or status.waiting_since is not None or not observed.available:
        labels = f"{identity.RUN_UID}={run.metadata.uid},{identity.COMPONENT}={SERVER}"
        named = (status.active, status.target, status.failed) if status is not None else ()
        wanted = {(served.digest, served.settings) for served in named if served is not None}
        past = await history.read(client, found.deployment, labels, wanted)
        templates |= past.templates  # as applied, where somebody edits the Deployment now
        observed = replace(observed, trouble=servers.trouble(found.deployment, past.pods))
    observed = replace(observed, restorable=frozenset(templates))
    found = replace(found, observed=observed, templates=templates)
    target = status.target if status is not None else None
    asked = target is not None and not _repairs(context, target, found)
    return replace(found, observed=replace(observed, as_asked=asked))


def _uid(item: Mapping[str, Any]) -> str:
    return str(item["metadata"]["uid"])


@dataclass(frozen=True)
class Carried:
    """What was put right.

    Args:
        told: what others had changed, one line for each object.
        wait: seconds until an object may be put right again that somebody changes again and again.
    """

    told: tuple[str, ...] = ()
    wait: float | None = None


async def carry_out(client: Client, target: ServedPolicy, found: Servers, patience: Patience) -> Carried:
    """Puts right what is not as it should be; what is refused of one object does not hold up the other.

    Raises:
        ApiError: the API server refused, or could not be reached.
        ConflictError: the object is another one by now.
    """
    if found.context is None:
        raise ValueError("the run does not serve")
    told, waits = [], []
    refused: ApiError | None = None
    for made in _repairs(found.context, target, found):
        left = patience.left(made)
        if left:
            waits.append(left)
            continue
        try:
            await mend(client, made)
        except ApiError as error:
            if not refusal(error):
                raise
            refused = refused or error
            continue
        patience.mended(made)
        if made.foreign:
            told.append(str(made))
    if refused is not None:
        raise refused
    return Carried(tuple(told), min(waits, default=None))


async def remove(client: Client, run: IterativePPORun, found: Servers) -> None:
    """Deletes the Deployment and the Service, if they are the run's."""
    children: list[tuple[Resource, Manifest | None]] = [(DEPLOYMENTS, found.deployment), (SERVICES, found.service)]
    for resource, child in children:
        if child is None or "deletionTimestamp" in child["metadata"]:
            continue
        try:
            await client.delete(resource, str(run.metadata.namespace), run.metadata.name, _uid(child))
        except ConflictError:
            continue  # another object has the name by now; ours is gone


def _repairs(context: ServingContext, target: ServedPolicy, found: Servers) -> list[Repair]:
    """What is wrong; nothing while an object of that name is on its way out."""
    template = _template(target, found)
    if template is None and target.settings != found.observed.settings:
        return []  # these servers are not known any more; the next pass goes for others
    policy = DeployedPolicy(iteration=target.iteration, artifact=ArtifactRef(key=target.key, digest=target.digest))
    deployment = serving_deployment(context, policy, template)
    leave_replicas(deployment, context.serve, found.deployment)
    pairs = ((deployment, found.deployment), (serving_service(context), found.service))
    return [made for wanted, there in pairs if (made := repair(wanted, there)) is not None]


def _template(target: ServedPolicy, found: Servers) -> PodTemplate | None:
    """Of servers that the spec does not ask for any more; None where the spec still does."""
    if target.settings == found.observed.settings:
        return None
    return found.templates.get((target.digest, target.settings))


def leave_replicas(wanted: Manifest, serve: Serve, there: Manifest | None) -> None:
    """A number that changed since ours was applied is somebody else's, until spec.serve.replicas changes."""
    if there is None:
        return
    applied = (there["metadata"].get("annotations") or {}).get(identity.REPLICAS)
    if applied == str(serve.replicas) and there["spec"].get("replicas", 1) != serve.replicas:
        del wanted["spec"]["replicas"]
