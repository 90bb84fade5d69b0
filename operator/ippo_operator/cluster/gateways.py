"""Gateways as a Deployment, or as a StatefulSet where their journals have volumes, and the way from one to the other.

Those that are wanted are ready before the others end. What those leave on volumes goes into the bucket before a volume
goes. Neither the name nor the claims of a StatefulSet can change, so another volume is a way there and back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ippo_trainer.contract.digests import NO_DIGEST

from ippo_operator.api.run_sections import JournalVolume
from ippo_operator.cluster.client import Client, Manifest
from ippo_operator.cluster.journals import put_left
from ippo_operator.cluster.observe import server_state
from ippo_operator.cluster.resources import DEPLOYMENTS, STATEFUL_SETS
from ippo_operator.cluster.servers import leave_replicas, remove
from ippo_operator.manifests import identity
from ippo_operator.manifests.gateway import GatewayContext, gateway_deployment, gateway_stateful_set
from ippo_operator.manifests.identity import MANAGER
from ippo_operator.manifests.same import holds
from ippo_operator.plan.serving import all_are_up
from ippo_operator.plan.types import ObservedServing

_REPLICAS = "/metadata/annotations/" + identity.REPLICAS.replace("/", "~1")
"""A JSON Pointer."""


@dataclass(frozen=True)
class Gateways:
    """Those of one run, as they were read.

    Args:
        context: what they are made from.
        own: the run's own objects, by kind and name.
    """

    context: GatewayContext
    own: Mapping[tuple[str, str], Manifest]

    @property
    def _deployment(self) -> Manifest | None:
        return self.own.get((DEPLOYMENTS.kind, self.context.name))

    @property
    def _set(self) -> Manifest | None:
        return self.own.get((STATEFUL_SETS.kind, self.context.set_name))

    @property
    def desired(self) -> Manifest:
        """What is to be applied now, but for a number of replicas that is somebody else's."""
        volume, there = self.context.section.journal_volume, self._set
        if volume is None or (there is not None and not _has(there, volume)):
            desired = gateway_deployment(self.context)
            leave_replicas(desired, self._deployment)
            return desired
        desired = gateway_stateful_set(self.context, volume)
        leave_replicas(desired, there)
        if there is not None:  # they cannot be changed, and another release may write them otherwise
            desired["spec"]["volumeClaimTemplates"] = there["spec"]["volumeClaimTemplates"]
        return desired

    @property
    def there(self) -> list[Manifest]:
        """What is there, of the kind that is wanted first."""
        both = [self._deployment, self._set]
        ordered = both if self.desired["kind"] == DEPLOYMENTS.kind else both[::-1]
        return [workload for workload in ordered if workload is not None]

    async def end_others(self, client: Client) -> float | None:
        """Ends those that are not wanted any more, once the others are ready, or goes on with that.

        Returns:
            Seconds after which to look again because no event would tell.

        Raises:
            ApiError: the API server refused, or could not be reached.
            ConflictError: an object is another one by now.
        """
        desired, deployment, there = self.desired, self._deployment, self._set
        if desired["kind"] == DEPLOYMENTS.kind:
            ready = deployment is not None and _are_up(deployment)
            return await self._end_set(client, there) if ready and there is not None else None
        if there is None:
            return None
        if _are_up(there):
            await remove(client, [deployment])
        # An autoscaler may be about to have more.
        wanted = max(there["spec"].get("replicas", 1), desired["spec"].get("replicas", 0))
        return (await put_left(client, self.context, wanted)).wait

    async def _end_set(self, client: Client, there: Manifest) -> float | None:
        """It goes last, so that whoever looks for claims knows that there may be some."""
        if there["spec"].get("replicas", 1):
            # Noted as ours: a number that others set would stay when volumes are wanted again.
            none = [{"op": "replace", "path": "/spec/replicas", "value": 0}]
            await client.patch(STATEFUL_SETS, there, [*none, {"op": "add", "path": _REPLICAS, "value": "0"}], MANAGER)
            return None
        left = await put_left(client, self.context, 0)
        if not left.claims:
            await remove(client, [there])
        return left.wait


def _are_up(workload: Manifest) -> bool:
    """Whether all of its pods take requests, as its newest spec has them."""
    servers = server_state.observe(workload, ObservedServing(NO_DIGEST))
    return servers.fresh and all_are_up(servers)


def _has(stateful_set: Manifest, volume: JournalVolume) -> bool:
    """Whether its claims are for such volumes."""
    [claim] = stateful_set["spec"]["volumeClaimTemplates"]
    asked: dict[str, Any] = {"requests": {"storage": volume.storage}}
    same_class = claim["spec"].get("storageClassName") == volume.storage_class_name
    return same_class and holds(asked, claim["spec"]["resources"])
