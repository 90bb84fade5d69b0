"""Creates and deletes children. A name that is taken is ours only by owner UID and input digest."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TypeAlias

from ippo_operator.api.resource import IterativePPORun
from ippo_operator.cluster.client import Client, Manifest
from ippo_operator.cluster.errors import AlreadyExistsError, ConflictError
from ippo_operator.cluster.observe import job_state
from ippo_operator.cluster.observe.owned_jobs import OwnedJob
from ippo_operator.cluster.resources import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    JOBS,
    SERVICES,
    STATEFUL_SETS,
    Resource,
    resource_of,
)
from ippo_operator.cluster.servers import remove
from ippo_operator.manifests.jobs import stage_config_map, stage_job, stage_service
from ippo_operator.manifests.platform import Platform
from ippo_operator.plan.names import CANDIDATE, GATEWAY, MAX_SET_NAME, companion_name
from ippo_operator.plan.types import JobIntent

Builder: TypeAlias = Callable[[IterativePPORun, JobIntent], Sequence[Manifest]]
"""All objects of an attempt, in the order of creation; the Job comes last."""


class ChildConflictError(Exception):
    """A child's name is taken by an object that is not ours."""


def stage_objects(platform: Platform) -> Builder:
    """What every attempt is made of: the ConfigMap with its spec, a Service where its pods meet, then its Job."""

    def build(run: IterativePPORun, intent: JobIntent) -> list[Manifest]:
        objects = [stage_config_map(run, intent), stage_service(run, intent), stage_job(run, intent, platform)]
        return [manifest for manifest in objects if manifest is not None]

    return build


async def create(client: Client, run_uid: str, namespace: str, objects: Sequence[Manifest]) -> None:
    """Creates what is not there; an object of ours that is there is left as it is, but for the address of the store.

    Raises:
        ChildConflictError: a name is taken by an object that is not ours, or was made from other inputs.
        ApiError: the API server refused, or could not be reached.
    """
    for manifest in objects:
        resource, name = resource_of(manifest), str(manifest["metadata"]["name"])
        try:
            await client.create(resource, namespace, manifest)
        except AlreadyExistsError:
            existing = await client.get(resource, namespace, name)
            if existing is None:
                raise ConflictError(f"{resource.kind} {name} went away while it was adopted", 409) from None
            if not _same(existing, manifest, run_uid):
                raise ChildConflictError(f"{resource.kind} {name} exists and is not this run's") from None
            if existing.get("data") != manifest.get("data"):  # a stage spec; its Job could not be made so far
                await client.delete(resource, namespace, name, str(existing["metadata"]["uid"]))
                await client.create(resource, namespace, manifest)


def _same(existing: Manifest, manifest: Manifest, run_uid: str) -> bool:
    return job_state.is_ours(existing, run_uid) and job_state.digest_of_child(existing) == job_state.digest_of_child(
        manifest
    )


async def stop(client: Client, namespace: str, job: OwnedJob) -> None:
    """Deletes a Job once its pods have ended: until then it stays visible, so that nothing else is started."""
    if job.deleting:
        return
    await _delete(client, namespace, job, foreground=True)


async def clean(client: Client, run_uid: str, namespace: str, job: OwnedJob) -> None:
    """Deletes a Job that is over, with its pods, its stage spec and the Service of pods that work together."""
    await _delete_own(client, run_uid, namespace, job.name, [CONFIG_MAPS, SERVICES] if job.meets else [CONFIG_MAPS])
    await _delete(client, namespace, job, foreground=False)


async def forget(client: Client, run_uid: str, namespace: str, name: str) -> None:
    """Deletes what an attempt had beside its Job, which is gone."""
    await _delete_own(client, run_uid, namespace, name, [CONFIG_MAPS, SERVICES])


async def _delete_own(client: Client, run_uid: str, namespace: str, name: str, kinds: list[Resource]) -> None:
    for kind in kinds:
        child = await client.get(kind, namespace, name)
        if child is not None and job_state.is_ours(child, run_uid):
            await remove(client, [child])


async def _delete(client: Client, namespace: str, job: OwnedJob, foreground: bool) -> None:
    with suppress(ConflictError):
        await client.delete(JOBS, namespace, job.name, job.uid, foreground)


async def wind_down(client: Client, run_uid: str, namespace: str, name: str, jobs: Iterable[OwnedJob]) -> None:
    """Of a run that is being deleted while a finalizer of somebody else keeps it: what it started ends.

    Deletes the Jobs that are not over, the servers and the gateway. What else the run owns goes with it.

    Raises:
        ApiError: the API server refused, or could not be reached.
    """
    for job in jobs:
        if not job.over:
            await stop(client, namespace, job)
    for one in (name, companion_name(name, GATEWAY), companion_name(name, CANDIDATE)):
        await _delete_own(client, run_uid, namespace, one, [DEPLOYMENTS, SERVICES])
    await _delete_own(client, run_uid, namespace, companion_name(name, GATEWAY, MAX_SET_NAME), [STATEFUL_SETS])
