"""A Deployment, its ReplicaSets and its pods as the planner sees them."""

import copy
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any, cast

from ippo_trainer.contract.spec import Digest

from ippo_operator.api.reasons import Reason
from ippo_operator.api.status import Waiting
from ippo_operator.cluster import clock
from ippo_operator.cluster import pods as pod_facts
from ippo_operator.cluster.pods import Object
from ippo_operator.manifests import identity
from ippo_operator.manifests.identity import MANAGER
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
    progressing = _condition(status, "Progressing")
    told = _time(progressing.get("lastUpdateTime"))
    gave_up = progressing.get("status") == "False" and progressing.get("reason") == "ProgressDeadlineExceeded"
    applied = _applied_at(deployment["metadata"])
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
        exceeded=gave_up and not (told is not None and applied is not None and told < applied),
        progressed_at=told,
    )


def _applied_at(metadata: Object) -> datetime | None:
    """When what we apply changed last: a verdict from before, which stays for a moment, is about other servers."""
    entries = metadata.get("managedFields") or ()
    ours = (entry for entry in entries if entry.get("manager") == MANAGER and entry.get("operation") == "Apply")
    return max((moment for entry in ours if (moment := _time(entry.get("time"))) is not None), default=None)


def _time(text: Any) -> datetime | None:
    return clock.moment(text) if text else None


def _identity(template: Object) -> tuple[Digest, Digest] | None:
    """The policy and the settings that a pod template is made of."""
    annotations = template["metadata"].get("annotations") or {}
    found = annotations.get(identity.POLICY_DIGEST), annotations.get(identity.SETTINGS_DIGEST)
    return cast("tuple[Digest, Digest]", found) if all(found) else None


def templates(holders: Iterable[Object]) -> dict[tuple[Digest, Digest], PodTemplate]:
    """The pod templates of Deployments or ReplicaSets, as they were applied, by what they are made of.

    Of several the oldest counts: what somebody writes into the Deployment makes another one with the same annotations.
    """
    made: dict[tuple[Digest, Digest], PodTemplate] = {}
    for holder in sorted(holders, key=lambda holder: str(holder["metadata"]["creationTimestamp"]), reverse=True):
        template: Any = copy.deepcopy(dict(holder["spec"]["template"]))
        found = _identity(template)
        if found is not None:
            template["metadata"].get("labels", {}).pop(_HASH, None)
            template["metadata"].pop("creationTimestamp", None)
            made[found] = template
    return made


def trouble(deployment: Object, pods: Iterable[Object]) -> Waiting | None:
    """Why servers do not get ready.

    Args:
        deployment: the run's own.
        pods: its own.
    """
    wanted = _identity(deployment["spec"]["template"])
    newest = [pod for pod in pods if _identity(pod) == wanted]
    found = pod_facts.waiting(newest) or _failing(newest)
    if found is not None:
        return found
    refused = _condition(deployment.get("status") or {}, "ReplicaFailure")
    if refused.get("status") == "True":
        told = " ".join(str(refused.get("message") or refused.get("reason")).split())
        return Waiting(reason=Reason.POD_REFUSED, message=f"no pod of a server can be created: {told}")
    name = deployment["metadata"]["name"]
    if "deletionTimestamp" in deployment["metadata"]:
        return Waiting(
            reason=Reason.SERVER_FAILED,
            message=f"Deployment {name} is being deleted; a new one is made once it is gone",
        )
    return None


def _failing(pods: Iterable[Object]) -> Waiting | None:
    """A container that ended with an error, be it that the kubelet starts it again."""
    for pod in pods:
        status = pod.get("status", {})
        for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
            ended = _ended(container)
            if ended is not None:
                said = pod_facts.said(ended.get("message")) or f"exit code {ended.get('exitCode')}"
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


def _condition(status: Object, kind: str) -> Object:
    """The condition of that type, or nothing of it."""
    found: Object = next((c for c in status.get("conditions") or () if c.get("type") == kind), {})
    return found
