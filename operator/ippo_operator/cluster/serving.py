"""The run's Deployment and Service: read fresh, adopted by owner UID only, applied only where they differ."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ippo_trainer.contract.spec import ArtifactRef, Digest, StoreLocation

from ippo_operator.api.cluster import Serve
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.status import DeployedPolicy, Reason, ServedPolicy
from ippo_operator.cluster import pods as pod_facts
from ippo_operator.cluster import servers
from ippo_operator.cluster.client import Client, Manifest
from ippo_operator.cluster.errors import ConflictError
from ippo_operator.cluster.resources import DEPLOYMENTS, PODS, REPLICA_SETS, SERVICES, Resource, resource_of
from ippo_operator.manifests import identity
from ippo_operator.manifests.platform import Platform
from ippo_operator.manifests.same import holds
from ippo_operator.manifests.serving import (
    SERVER,
    NoServerImageError,
    serving_deployment,
    serving_service,
    settings_digest,
)
from ippo_operator.manifests.types import PodTemplate
from ippo_operator.plan.types import ObservedServing, Waiting

MANAGER = "ippo-operator"
LOOK_AGAIN = 60.0
"""Seconds: no event tells that a name is free again."""
_NO_SETTINGS: Digest = "sha256:" + "0" * 64


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

    @property
    def look_again(self) -> float | None:
        """Seconds after which to look again because no event would tell."""
        blocked = self.observed.blocked
        return LOOK_AGAIN if blocked is not None and blocked.reason == Reason.CHILD_CONFLICT else None


async def read(client: Client, run: IterativePPORun, store: StoreLocation, platform: Platform) -> Servers | None:
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
        return Servers(ObservedServing(_NO_SETTINGS, exists=exists), deployment, service)
    settings, blocked = _settings(run, serve, store, platform)
    conflict = next((text for text in taken if text), None)
    if conflict is not None:
        blocked = Waiting(Reason.CHILD_CONFLICT, conflict)
    found = Servers(ObservedServing(settings, blocked, exists=exists), deployment, service)
    return await _looked_at(client, run, serve, store, platform, found)


def _foreign(found: Manifest | None, run: IterativePPORun) -> str:
    """What to say about an object that has the run's name and another owner; nothing about one of ours."""
    if found is None or pod_facts.controller_uid(found) == run.metadata.uid:
        return ""
    what = f"{found['kind']} {run.metadata.namespace}/{run.metadata.name}"
    return f"{what} exists and is not this run's; delete it, or give the run another name"


def _settings(
    run: IterativePPORun, serve: Serve, store: StoreLocation, platform: Platform
) -> tuple[Digest, Waiting | None]:
    try:
        return settings_digest(run, serve, store, platform), None
    except NoServerImageError as error:
        return _NO_SETTINGS, Waiting(Reason.NO_SERVER_IMAGE, str(error))


async def _looked_at(
    client: Client, run: IterativePPORun, serve: Serve, store: StoreLocation, platform: Platform, found: Servers
) -> Servers:
    """With how the servers are doing. Old pod templates and pods are read only while a roll-out is not over."""
    if found.deployment is None:
        return found
    observed = servers.observe(found.deployment, found.observed)
    status = run.status.serving if run.status is not None else None
    templates = servers.templates([found.deployment])
    if status is None or status.failed is not None or status.since is not None or not observed.available:
        namespace = str(run.metadata.namespace)
        labels = f"{identity.RUN_UID}={run.metadata.uid},{identity.COMPONENT}={SERVER}"
        sets = pod_facts.owned_by(await client.list(REPLICA_SETS, namespace, labels), _uid(found.deployment))
        templates = servers.templates(sets) | templates
        pods = await client.list(PODS, namespace, labels)
        own = [pod for replica_set in sets for pod in pod_facts.owned_by(pods, _uid(replica_set))]
        observed = replace(observed, trouble=servers.trouble(found.deployment, own))
    observed = replace(observed, restorable=frozenset(templates))
    found = replace(found, observed=observed, templates=templates)
    target = status.target if status is not None else None
    asked = target is not None and not _different(run, serve, target, store, platform, found)
    return replace(found, observed=replace(observed, as_asked=asked))


def _uid(item: Mapping[str, Any]) -> str:
    return str(item["metadata"]["uid"])


async def carry_out(
    client: Client,
    run: IterativePPORun,
    target: ServedPolicy,
    store: StoreLocation,
    platform: Platform,
    found: Servers,
) -> None:
    """Applies what differs from what is there.

    Raises:
        ApiError: the API server refused, or could not be reached.
        ConflictError: the object is another one by now.
    """
    if run.spec.serve is None:
        raise ValueError("the run does not serve")
    for manifest in _different(run, run.spec.serve, target, store, platform, found):
        metadata = manifest["metadata"]
        await client.apply(resource_of(manifest), metadata["namespace"], metadata["name"], manifest, MANAGER)


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


def _different(
    run: IterativePPORun,
    serve: Serve,
    target: ServedPolicy,
    store: StoreLocation,
    platform: Platform,
    found: Servers,
) -> list[Manifest]:
    """What has to be applied; nothing while an object of that name is on its way out."""
    template = _template(target, found)
    if template is None and target.settings != found.observed.settings:
        return []  # these servers are not known any more; the next pass goes for others
    policy = DeployedPolicy(iteration=target.iteration, artifact=ArtifactRef(key=target.key, digest=target.digest))
    deployment = serving_deployment(run, serve, policy, store, platform, template)
    _leave_replicas(deployment, serve, found.deployment)
    pairs = ((deployment, found.deployment), (serving_service(run, serve), found.service))
    return [_for(there, wanted) for wanted, there in pairs if _due(wanted, there)]


def _due(wanted: Manifest, there: Manifest | None) -> bool:
    return there is None or ("deletionTimestamp" not in there["metadata"] and not holds(wanted, there))


def _for(there: Manifest | None, wanted: Manifest) -> Manifest:
    """With the UID of the object that is meant: one that took its name is refused."""
    if there is None:
        return wanted
    return wanted | {"metadata": wanted["metadata"] | {"uid": _uid(there)}}


def _template(target: ServedPolicy, found: Servers) -> PodTemplate | None:
    """Of servers that the spec does not ask for any more; None where the spec still does."""
    if target.settings == found.observed.settings:
        return None
    return found.templates.get((target.digest, target.settings))


def _leave_replicas(wanted: Manifest, serve: Serve, there: Manifest | None) -> None:
    """A number that changed since ours was applied is somebody else's, until spec.serve.replicas changes."""
    if there is None:
        return
    applied = (there["metadata"].get("annotations") or {}).get(identity.REPLICAS)
    if applied == str(serve.replicas) and there["spec"].get("replicas", 1) != serve.replicas:
        del wanted["spec"]["replicas"]
