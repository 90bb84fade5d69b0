"""Volumes of gateways that come no more: what is left on them goes into the bucket, then they go."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from ippo_operator.cluster.client import Client, Manifest
from ippo_operator.cluster.errors import AlreadyExistsError, ConflictError
from ippo_operator.cluster.observe import job_state, pod_state
from ippo_operator.cluster.resources import CLAIMS, JOBS, PODS
from ippo_operator.manifests import identity
from ippo_operator.manifests.gateway import GatewayContext
from ippo_operator.manifests.left_journals import LEFT_JOURNAL, ordinal, put_job
from ippo_operator.plan.names import GATEWAY

_SOON = 5.0
"""Seconds: no event tells that a claim is gone."""


@dataclass(frozen=True)
class Left:
    """What there is of claims that no gateway is to have any more.

    Args:
        claims: how many.
        wait: seconds after which to look again because no event would tell.
    """

    claims: int = 0
    wait: float | None = None


@dataclass(frozen=True)
class _PutJob:
    name: str
    uid: str
    deleting: bool
    succeeded: bool | None
    """None while it is not over."""


async def put_left(client: Client, context: GatewayContext, wanted: int) -> Left:
    """Has what is on the claims of gateways from ordinal `wanted` on brought into the bucket, and deletes claims that
    nothing is left on.

    A pod that still has a claim brings its events there by itself, so nothing is begun before it is gone. A claim that
    is wanted again is left to its gateway.

    Raises:
        ApiError: the API server refused, or could not be reached.
    """
    claims, jobs = await _claims(client, context), await _jobs(client, context)
    for number, claim in claims.items():
        job = jobs.get(claim["metadata"]["uid"])
        if number < wanted and job is not None:  # its gateway is to come again, and would wait for the journal
            await _stop(client, context, job)
    left = {number: claim for number, claim in claims.items() if number >= wanted}
    used = await _used(client, context) if left else frozenset[str]()
    going = False
    for number, claim in sorted(left.items()):
        if claim["metadata"]["name"] not in used:
            going = await _put(client, context, number, claim, jobs.get(claim["metadata"]["uid"])) or going
    return Left(len(left), _SOON if going else None)


async def _put(client: Client, context: GatewayContext, number: int, claim: Manifest, job: _PutJob | None) -> bool:
    """One step towards the end of a claim; whether it is about to go."""
    metadata = claim["metadata"]
    if "deletionTimestamp" in metadata:
        if job is not None and job.succeeded is not None:  # the claim waits until its pod is gone
            await _stop(client, context, job)
        return True
    if job is None:
        # The name may still be that of the Job of an earlier claim, which the garbage collector is about to delete.
        with suppress(AlreadyExistsError):
            await client.create(JOBS, metadata["namespace"], put_job(context, claim, number))
        return False
    if job.succeeded:
        with suppress(ConflictError):  # another claim has the name by now
            await client.delete(CLAIMS, metadata["namespace"], metadata["name"], metadata["uid"])
        return True
    if job.succeeded is not None:  # ended by somebody
        await _stop(client, context, job)
    return False


async def _stop(client: Client, context: GatewayContext, job: _PutJob) -> None:
    if not job.deleting:
        with suppress(ConflictError):
            await client.delete(JOBS, str(context.run.metadata.namespace), job.name, job.uid, foreground=True)


async def _claims(client: Client, context: GatewayContext) -> dict[int, Manifest]:
    """The run's own, by ordinal."""

    def own(item: Manifest) -> tuple[int, Manifest] | None:
        number = ordinal(context, str(item["metadata"]["name"]))
        owners = item["metadata"].get("ownerReferences") or ()
        mine = any(owner.get("uid") == context.run.metadata.uid for owner in owners)
        return (number, item) if number is not None and mine else None

    return dict(await client.list(CLAIMS, *_where(context, GATEWAY), metadata_only=True, keep=own))


async def _jobs(client: Client, context: GatewayContext) -> dict[str, _PutJob]:
    """By the UID of the claim that they are of."""

    def of_claim(item: Manifest) -> tuple[str, _PutJob] | None:
        metadata, claim, ended = item["metadata"], pod_state.controller_uid(item), job_state.ended(item)
        succeeded = ended.succeeded if ended is not None else None
        job = _PutJob(metadata["name"], metadata["uid"], "deletionTimestamp" in metadata, succeeded)
        return (claim, job) if claim is not None else None

    return dict(await client.list(JOBS, *_where(context, LEFT_JOURNAL), keep=of_claim))


async def _used(client: Client, context: GatewayContext) -> frozenset[str]:
    """Names of claims that pods of gateways have, be it that they are about to end."""

    def claims(pod: Manifest) -> list[str]:
        volumes: Iterable[Manifest] = pod["spec"].get("volumes") or ()
        sources = (volume.get("persistentVolumeClaim") or {} for volume in volumes)
        return [str(source["claimName"]) for source in sources if "claimName" in source]

    pods = await client.list(PODS, *_where(context, GATEWAY), keep=claims)
    return frozenset(name for names in pods for name in names)


def _where(context: GatewayContext, component: str) -> tuple[str, str]:
    """The namespace, and labels."""
    labels = ",".join(f"{key}={value}" for key, value in identity.selector(context.run, component).items())
    return str(context.run.metadata.namespace), labels
