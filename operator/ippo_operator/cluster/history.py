"""What Kubernetes still has of a Deployment's servers and of those before them, in little: tenants can make more."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ippo_trainer.contract.spec import Digest

from ippo_operator.cluster import pods as pod_facts
from ippo_operator.cluster import servers, trim
from ippo_operator.cluster.client import Client, Manifest
from ippo_operator.cluster.resources import PODS, REPLICA_SETS
from ippo_operator.manifests.types import PodTemplate

Identity = tuple[Digest, Digest]
"""Of servers: their policy and their settings."""


@dataclass(frozen=True)
class History:
    """Of one Deployment."""

    templates: Mapping[Identity, PodTemplate]
    """Of pods, as they were applied."""
    pods: list[dict[str, Any]]
    """Its own, as `trim.pod` keeps them."""


async def read(client: Client, deployment: Manifest, labels: str, wanted: Collection[Identity]) -> History:
    """The history of a run's own Deployment.

    Args:
        client: reads.
        deployment: the run's own.
        labels: of its ReplicaSets and pods.
        wanted: servers whose pod templates are asked for.

    Raises:
        ApiError: the API server refused, or could not be reached.
    """
    namespace, uid = str(deployment["metadata"]["namespace"]), str(deployment["metadata"]["uid"])
    own: set[str] = set()
    oldest: dict[Identity, Manifest] = {}

    def replica_set(item: Manifest) -> None:
        if pod_facts.controller_uid(item) != uid:
            return
        own.add(str(item["metadata"]["uid"]))
        made = {"metadata": {"creationTimestamp": item["metadata"]["creationTimestamp"]}, "spec": item["spec"]}
        for of in servers.templates([made]):
            if of in wanted and (of not in oldest or _age(made) < _age(oldest[of])):
                oldest[of] = made

    def pod(item: Manifest) -> dict[str, Any] | None:
        return trim.pod(item) if pod_facts.controller_uid(item) in own else None

    await client.list(REPLICA_SETS, namespace, labels, keep=replica_set)
    return History(servers.templates(oldest.values()), await client.list(PODS, namespace, labels, keep=pod))


def _age(item: Manifest) -> str:
    return str(item["metadata"]["creationTimestamp"])
