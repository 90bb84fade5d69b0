"""A Deployment, its ReplicaSets, its pods and its Service as the planner sees them."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, cast

from ippo_trainer.contract.digests import NO_DIGEST
from ippo_trainer.contract.spec import Digest

from ippo_operator.api.reasons import Reason
from ippo_operator.api.status import Waiting
from ippo_operator.cluster import clock
from ippo_operator.cluster.client import Client, Manifest
from ippo_operator.cluster.errors import ForbiddenError
from ippo_operator.cluster.observe import pod_state, trim
from ippo_operator.cluster.observe.pod_state import Object, condition_of
from ippo_operator.cluster.resources import DEPLOYMENTS, ENDPOINT_SLICES, PODS, REPLICA_SETS
from ippo_operator.manifests import identity
from ippo_operator.manifests.identity import MANAGER, SERVICE_NAME
from ippo_operator.manifests.types import PodTemplate
from ippo_operator.plan.types import ObservedServing

_HASH = "pod-template-hash"


def observe(deployment: Object, so_far: ObservedServing) -> ObservedServing:
    """What a Deployment tells.

    Args:
        deployment: the run's own.
        so_far: what is known besides.
    """
    spec, status = deployment["spec"], deployment.get("status") or {}
    policy, settings = _identity(spec["template"]) or (None, None)
    progressing = condition_of(status, "Progressing")
    progressed_at = _time(progressing.get("lastUpdateTime"))
    gave_up = progressing.get("status") == "False" and progressing.get("reason") == "ProgressDeadlineExceeded"
    applied = applied_at(deployment["metadata"])
    return replace(
        so_far,
        policy=policy,
        template=settings,
        fresh=status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 1)
        and "deletionTimestamp" not in deployment["metadata"],
        replicas=spec.get("replicas", 1),
        total=status.get("replicas", 0),
        updated=status.get("updatedReplicas", 0),
        available=status.get("availableReplicas", 0),
        exceeded=gave_up and not (progressed_at is not None and applied is not None and progressed_at < applied),
        progressed_at=progressed_at,
    )


def available(workload: Object) -> int:
    """Pods of a Deployment or StatefulSet that take requests."""
    return observe(workload, ObservedServing(NO_DIGEST)).available


def availability_changed_at(deployment: Object) -> datetime | None:
    """Since when enough of its pods take requests, or too few; None where nobody knows, as of a StatefulSet."""
    return _time(condition_of(deployment.get("status") or {}, "Available").get("lastTransitionTime"))


def applied_at(metadata: Object) -> datetime | None:
    """When what we apply changed last: a verdict from before, which stays for a moment, is about other servers."""
    entries = metadata.get("managedFields") or ()
    ours = (entry for entry in entries if entry.get("manager") == MANAGER and entry.get("operation") == "Apply")
    return max((moment for entry in ours if (moment := _time(entry.get("time"))) is not None), default=None)


def _time(text: Any) -> datetime | None:
    return clock.moment(text) if text else None


def _identity(template: Object) -> tuple[Digest, Digest] | None:
    """The policy and the settings that a pod template is made of."""
    annotations = template["metadata"].get("annotations") or {}
    digests = annotations.get(identity.POLICY_DIGEST), annotations.get(identity.SETTINGS_DIGEST)
    return cast("tuple[Digest, Digest]", digests) if all(digests) else None


def templates(holders: Iterable[Object]) -> dict[tuple[Digest, Digest], PodTemplate]:
    """The pod templates of Deployments or ReplicaSets, as they were applied, by what they are made of.

    Of several the oldest counts: what somebody writes into the Deployment makes another one with the same annotations.
    """
    by_identity: dict[tuple[Digest, Digest], PodTemplate] = {}
    for holder in sorted(holders, key=lambda holder: str(holder["metadata"]["creationTimestamp"]), reverse=True):
        template: Any = holder["spec"]["template"]
        identity_of = _identity(template)
        if identity_of is not None:
            by_identity[identity_of] = template | {"metadata": _as_applied(template["metadata"])}
    return by_identity


def _as_applied(metadata: Object) -> Object:
    """Of a pod template, without what the API server and the Deployment controller add."""
    rest = {name: value for name, value in metadata.items() if name != "creationTimestamp"}
    if "labels" in rest:
        rest["labels"] = {name: value for name, value in rest["labels"].items() if name != _HASH}
    return rest


def trouble(deployment: Object, pods: Iterable[Object]) -> Waiting | None:
    """Why servers do not get ready.

    Args:
        deployment: the run's own.
        pods: its own.
    """
    current = _identity(deployment["spec"]["template"])
    newest = [pod for pod in pods if _identity(pod) == current]
    waiting = pod_state.waiting(newest) or _failing(newest)
    if waiting is not None:
        return waiting
    refused = condition_of(deployment.get("status") or {}, "ReplicaFailure")
    if refused.get("status") == "True":
        message = " ".join(str(refused.get("message") or refused.get("reason")).split())
        return Waiting(reason=Reason.POD_REFUSED, message=f"no pod of a server can be created: {message}")
    name = deployment["metadata"]["name"]
    if "deletionTimestamp" in deployment["metadata"]:
        return Waiting(
            reason=Reason.SERVER_FAILED,
            message=f"{deployment['kind']} {name} is being deleted; a new one is made once it is gone",
        )
    return None


def _failing(pods: Iterable[Object]) -> Waiting | None:
    """A container that ended with an error, be it that the kubelet starts it again."""
    for pod in pods:
        status = pod.get("status", {})
        for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
            ended = _ended(container)
            if ended is not None:
                said = pod_state.said(ended.get("message")) or f"exit code {ended.get('exitCode')}"
                where = f"{container.get('name')} of pod {pod['metadata']['name']}"
                return Waiting(reason=Reason.SERVER_FAILED, message=f"{where} failed: {said}")
    return None


def _ended(container: Object) -> Object | None:
    """How it ended last, if it was badly and it is not at work again."""
    if container.get("ready") or container.get("started"):
        return None
    for state in (container.get("state") or {}, container.get("lastState") or {}):
        ended: Object | None = state.get("terminated")
        if ended is not None and ended.get("exitCode") != 0:
            return ended
    return None


Identity = tuple[Digest, Digest]
"""Of servers: their policy and their settings."""


@dataclass(frozen=True)
class ServerHistory:
    """Of one Deployment."""

    templates: Mapping[Identity, PodTemplate]
    """Of pods, as they were applied."""
    pods: list[dict[str, Any]]
    """Its own, as `trim.pod` keeps them."""


async def read_history(
    client: Client, deployment: Manifest, labels: str, identities: Collection[Identity]
) -> ServerHistory:
    """The history of a run's own Deployment, or the pods of its StatefulSet, which has none.

    Args:
        client: reads.
        deployment: the run's own.
        labels: of its ReplicaSets and pods.
        identities: servers whose pod templates are asked for.

    Raises:
        ApiError: the API server refused, or could not be reached.
    """
    namespace, uid = str(deployment["metadata"]["namespace"]), str(deployment["metadata"]["uid"])
    own = {uid}
    oldest: dict[Identity, Manifest] = {}

    def replica_set(item: Manifest) -> None:
        if pod_state.controller_uid(item) != uid:
            return
        own.add(str(item["metadata"]["uid"]))
        holder = {"metadata": {"creationTimestamp": item["metadata"]["creationTimestamp"]}, "spec": item["spec"]}
        for of in templates([holder]):
            if of in identities and (of not in oldest or _age(holder) < _age(oldest[of])):
                oldest[of] = holder

    def pod(item: Manifest) -> dict[str, Any] | None:
        return trim.pod(item) if pod_state.controller_uid(item) in own else None

    if deployment["kind"] == DEPLOYMENTS.kind:
        await client.list(REPLICA_SETS, namespace, labels, keep=replica_set)
    return ServerHistory(templates(oldest.values()), await client.list(PODS, namespace, labels, keep=pod))


def _age(item: Manifest) -> str:
    return str(item["metadata"]["creationTimestamp"])


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

    def ready(item: Manifest) -> bool | None:
        if pod_state.controller_uid(item) != metadata["uid"] or not item.get("ports"):
            return None
        endpoints = (endpoint.get("conditions") or {} for endpoint in item.get("endpoints") or ())
        return any(conditions.get("ready") is not False for conditions in endpoints) or None

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
