"""Whether requests get from the Service to servers: a Deployment that is ready may serve nobody."""

from ippo_operator.api.reasons import Reason
from ippo_operator.api.status import Waiting
from ippo_operator.cluster import pods as pod_facts
from ippo_operator.cluster.client import Client, Manifest
from ippo_operator.cluster.errors import ForbiddenError
from ippo_operator.cluster.resources import ENDPOINT_SLICES
from ippo_operator.manifests.identity import SERVICE_NAME


async def unreached(client: Client, name: str, service: Manifest | None, available: int) -> Waiting | None:
    """Why no server can be reached; None where one can.

    Args:
        client: reads.
        name: of the Service.
        service: the run's own; None where there is none.
        available: servers that take requests.

    Raises:
        ApiError: the API server refused, or could not be reached.
    """
    if service is None:
        return Waiting(reason=Reason.NOT_REACHED, message=f"there is no Service {name}")
    metadata = service["metadata"]
    labels = f"{SERVICE_NAME}={metadata['name']}"

    def ready(found: Manifest) -> bool | None:
        if pod_facts.controller_uid(found) != metadata["uid"] or not found.get("ports"):
            return None
        told = (endpoint.get("conditions") or {} for endpoint in found.get("endpoints") or ())
        return any(conditions.get("ready") is not False for conditions in told) or None

    try:
        listed = await client.list(ENDPOINT_SLICES, metadata["namespace"], labels, keep=ready)
    except ForbiddenError as error:
        text = f"the operator cannot tell whether Service {name} reaches servers; give its role the right: {error}"
        return Waiting(reason=Reason.NOT_REACHED, message=text)
    if listed:
        return None
    some = "the server that is" if available == 1 else f"any of the {available} servers that are"
    return Waiting(
        reason=Reason.NOT_REACHED, message=f"Service {name} does not reach {some} available: it has no ready endpoint"
    )
