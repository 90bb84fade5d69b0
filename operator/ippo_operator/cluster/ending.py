"""A run that is being deleted while a finalizer of somebody else keeps it: what it started ends, nothing is made."""

from contextlib import suppress

from ippo_operator.cluster import children, jobs
from ippo_operator.cluster.client import Client
from ippo_operator.cluster.errors import ConflictError
from ippo_operator.cluster.read import Snapshot
from ippo_operator.cluster.resources import DEPLOYMENTS, SERVICES


async def wind_down(client: Client, found: Snapshot) -> None:
    """Deletes the Jobs that are not over, and the servers. What else the run owns goes with it.

    Raises:
        ApiError: the API server refused, or could not be reached.
    """
    namespace, name = str(found.raw["metadata"]["namespace"]), str(found.raw["metadata"]["name"])
    for job in found.jobs.values():
        if not job.over:
            await children.stop(client, namespace, job)
    for resource in (DEPLOYMENTS, SERVICES):
        child = await client.get(resource, namespace, name)
        if child is None or "deletionTimestamp" in child["metadata"] or not jobs.is_ours(child, found.uid):
            continue
        with suppress(ConflictError):  # another object has the name by now; ours is gone
            await client.delete(resource, namespace, name, str(child["metadata"]["uid"]))
