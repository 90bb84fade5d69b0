"""Creates and deletes children. A name that is taken is ours only by owner UID and input digest."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

from ippo_operator.api.resource import IterativePPORun
from ippo_operator.cluster import jobs
from ippo_operator.cluster.client import Client, Manifest
from ippo_operator.cluster.errors import AlreadyExistsError, ApiError, ConflictError
from ippo_operator.cluster.owned import OwnedJob
from ippo_operator.cluster.resources import CONFIG_MAPS, JOBS, SERVICES, Resource, resource_of
from ippo_operator.manifests.jobs import stage_config_map, stage_job, stage_service
from ippo_operator.manifests.platform import Platform
from ippo_operator.plan.types import JobIntent

Builder: TypeAlias = Callable[[IterativePPORun, JobIntent], Sequence[Manifest]]
"""All objects of an attempt, in the order of creation; the Job comes last."""


class ChildConflictError(Exception):
    """A child's name is taken by an object that is not ours."""


def stage_objects(platform: Platform) -> Builder:
    """What every attempt is made of: the ConfigMap with its spec, a Service where its pods meet, then its Job."""

    def build(run: IterativePPORun, intent: JobIntent) -> list[Manifest]:
        made = [stage_config_map(run, intent), stage_service(run, intent), stage_job(run, intent, platform)]
        return [manifest for manifest in made if manifest is not None]

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
            found = await client.get(resource, namespace, name)
            if found is None:
                raise ConflictError(f"{resource.kind} {name} went away while it was adopted", 409) from None
            if not _same(found, manifest, run_uid):
                raise ChildConflictError(f"{resource.kind} {name} exists and is not this run's") from None
            if found.get("data") != manifest.get("data"):  # a stage spec; its Job could not be made so far
                await client.delete(resource, namespace, name, str(found["metadata"]["uid"]))
                await client.create(resource, namespace, manifest)


def _same(found: Manifest, manifest: Manifest, run_uid: str) -> bool:
    return jobs.is_ours(found, run_uid) and jobs.digest_of_child(found) == jobs.digest_of_child(manifest)


async def stop(client: Client, namespace: str, job: OwnedJob) -> None:
    """Deletes a Job once its pods have ended: until then it stays visible, so that nothing else is started."""
    if job.deleting:
        return
    await _delete(client, namespace, job, foreground=True)


async def clean(client: Client, run_uid: str, namespace: str, job: OwnedJob) -> None:
    """Deletes a Job that is over, with its pods, its stage spec and the Service of pods that work together."""
    await _delete_beside(client, run_uid, namespace, job.name, [CONFIG_MAPS, SERVICES] if job.meets else [CONFIG_MAPS])
    await _delete(client, namespace, job, foreground=False)


async def forget(client: Client, run_uid: str, namespace: str, name: str) -> None:
    """Deletes what an attempt had beside its Job, which is gone."""
    await _delete_beside(client, run_uid, namespace, name, [CONFIG_MAPS, SERVICES])


async def _delete_beside(client: Client, run_uid: str, namespace: str, name: str, kinds: list[Resource]) -> None:
    for kind in kinds:
        found = await client.get(kind, namespace, name)
        if found is None or not jobs.is_ours(found, run_uid):
            continue
        with suppress(ConflictError):  # another object has the name by now; ours is gone
            await client.delete(kind, namespace, name, str(found["metadata"]["uid"]))


async def _delete(client: Client, namespace: str, job: OwnedJob, foreground: bool) -> None:
    try:
        await client.delete(JOBS, namespace, job.name, job.uid, foreground)
    except ConflictError:
        return  # another object has the name by now; ours is gone


def refusal(error: ApiError) -> bool:
    """Whether the run has to say so: the object itself is refused, or somebody's webhook, without which it is not
    taken, does not answer. Repeating the request at once is of no use."""
    unanswered = error.status == 500 and "calling webhook" in str(error)
    return unanswered or (400 <= error.status < 500 and error.status not in {404, 408, 409, 410, 429})
