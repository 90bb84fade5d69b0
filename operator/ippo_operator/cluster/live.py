"""The gateway's objects and those of a candidate's servers: read fresh, adopted by owner UID only, applied only where
they differ, and what the gateway reports, asked for only when the planner needs it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Self

from ippo_trainer.contract.digests import NO_DIGEST
from ippo_trainer.contract.live import LiveReport
from ippo_trainer.contract.spec import Digest
from ippo_trainer.contract.stages import IMPROVE

from ippo_operator.api.reasons import Reason
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.status import RunStatus, Waiting
from ippo_operator.cluster.client import Client, Manifest
from ippo_operator.cluster.gateways import Gateways
from ippo_operator.cluster.live_report import NoReportError, Silences, read_report
from ippo_operator.cluster.mending import Repair, RepairBackoff, Repairs, put_right, repair
from ippo_operator.cluster.observe import server_state
from ippo_operator.cluster.resources import CONFIG_MAPS, DEPLOYMENTS, SERVICES, STATEFUL_SETS, Key, Resource
from ippo_operator.cluster.servers import Serving, leave_replicas, own, remove
from ippo_operator.manifests import identity
from ippo_operator.manifests.gateway import GatewayContext, candidate_of, gateway_config_map, gateway_service
from ippo_operator.manifests.serving import NoServerImageError, ServingContext, serving_deployment, serving_service
from ippo_operator.plan import canary, live
from ippo_operator.plan.names import CANDIDATE, GATEWAY, MAX_SET_NAME, companion_name
from ippo_operator.plan.serving import one_is_up
from ippo_operator.plan.types import LiveIntent, ObservedLive, ObservedServing

ROUTES_LAG = 120.0
"""Seconds until every gateway has read that it asks a candidate no more: kubelets renew files about once a minute."""
LOOK_AGAIN = 300.0
"""Seconds: no event tells that a ConfigMap was changed or that a name is free again."""
_STARTING = timedelta(seconds=120)
"""In which gateways that do not answer are no news."""
_PATIENCE = 30.0
"""Seconds: an answer that comes late once is no news."""
Child = tuple[str, str]
"""Kind and name."""


@dataclass(frozen=True)
class LiveObjects:
    """What there is of a run's gateway and of a candidate's servers."""

    observed: ObservedLive
    """With the refusal that the status tells of, which holds until the API server takes the object."""
    otherwise: ObservedLive
    """Without it: how things are if the API server takes everything now."""
    own: Mapping[Child, Manifest] = field(default_factory=dict)
    """The run's own."""
    foreign: frozenset[Child] = frozenset()
    """Of others under these names."""
    servers: ServingContext | None = None
    """Of the promoted policy, of a run with a gateway."""

    @property
    def look_again(self) -> float | None:
        """Seconds after which to look again because no event would tell."""
        return LOOK_AGAIN if self.own or self.foreign else None


@dataclass(frozen=True)
class Live:
    """The live part of one run in a cluster.

    Args:
        client: of this process.
        run: as the server has it.
        servers: what its policy servers are made from; None for a run without collect.logged.
        silences: of this process.
    """

    client: Client
    run: IterativePPORun
    servers: ServingContext | None
    silences: Silences

    @classmethod
    def beside(cls, serving: Serving, silences: Silences) -> Self:
        """That of the same run."""
        live = serving.run.spec.collect.logged is not None
        return cls(serving.client, serving.run, serving.context if live else None, silences)

    @property
    def _key(self) -> Key:
        return str(self.run.metadata.namespace), self.run.metadata.name

    @property
    def _gateway(self) -> str:
        return companion_name(self.run.metadata.name, GATEWAY)

    @property
    def _candidate(self) -> str:
        return companion_name(self.run.metadata.name, CANDIDATE)

    async def read(self) -> LiveObjects | None:
        """All as it is now; None for a run that neither has a gateway nor has to lose one.

        Raises:
            ApiError: the API server refused, or could not be reached.
        """
        status = self.run.status or RunStatus()
        if self.servers is None and status.live is None:
            return None
        mine: dict[Child, Manifest] = {}
        conflicts: dict[Child, Waiting] = {}
        for resource, name in self._children():
            child, conflict = own(self.run, await self.client.get(resource, str(self.run.metadata.namespace), name))
            if child is not None:
                mine[resource.kind, name] = child
            if conflict is not None:
                conflicts[resource.kind, name] = conflict
        nothing = ObservedLive()
        objects = LiveObjects(nothing, nothing, mine, frozenset(conflicts), self.servers)
        if self.servers is None:
            return objects
        observed = await self._observed(status, self.servers, objects)
        observed = replace(observed, trouble=next(iter(conflicts.values()), observed.trouble))
        before = status.live.trouble if status.live is not None else None
        refused = before if before is not None and before.reason == Reason.CHILD_REFUSED else None
        return replace(objects, observed=replace(observed, trouble=refused or observed.trouble), otherwise=observed)

    def _children(self) -> Iterator[tuple[Resource, str]]:
        yield CONFIG_MAPS, self._gateway
        for name in (self._gateway, self._candidate):
            yield DEPLOYMENTS, name
            yield SERVICES, name
        yield STATEFUL_SETS, companion_name(self.run.metadata.name, GATEWAY, MAX_SET_NAME)

    # How they are doing

    async def _observed(self, status: RunStatus, servers: ServingContext, objects: LiveObjects) -> ObservedLive:
        observed, tested = ObservedLive(), canary.under_test(self.run.spec, status)
        candidate = tested.artifact(IMPROVE) if tested is not None else None
        if candidate is not None:
            observed = await self._observed_candidate(candidate.digest, objects)
        if candidate is None and not live.waits(self.run.spec, status):
            self.silences.forget(self._key)
            return observed
        report, trouble = await self._report(servers, objects)
        return replace(observed, report=report, trouble=trouble or observed.trouble)

    async def _observed_candidate(self, digest: Digest, objects: LiveObjects) -> ObservedLive:
        """How a candidate's servers are doing; nothing is known while the Deployment is about others."""
        deployment = objects.own.get((DEPLOYMENTS.kind, self._candidate))
        if deployment is None:
            return ObservedLive()
        servers = server_state.observe(deployment, ObservedServing(NO_DIGEST))
        if not servers.fresh or servers.policy != digest:
            return ObservedLive()
        trouble: Waiting | None
        if one_is_up(servers):  # a test may begin with one of them
            service = objects.own.get((SERVICES.kind, self._candidate))
            trouble = await server_state.unreached(self.client, self._candidate, service, servers.available)
            return ObservedLive(candidate_ready=trouble is None, trouble=trouble)
        trouble = await self._trouble(deployment, CANDIDATE)
        if not servers.exceeded:
            return ObservedLive(trouble=trouble)
        cause = f" ({trouble.message.rstrip('. ')})" if trouble is not None else ""
        limit = deployment["spec"].get("progressDeadlineSeconds")
        text = f"its servers were not ready within spec.serve.progressDeadlineSeconds, {limit} s{cause}"
        return ObservedLive(candidate_failed=text)

    async def _report(self, servers: ServingContext, objects: LiveObjects) -> tuple[LiveReport | None, Waiting | None]:
        """What the gateway says, or why it says nothing, once that is worth a word."""
        gateways = Gateways(GatewayContext(servers), objects.own).there
        if not gateways:
            return None, None  # they are about to be made
        wanted, available = gateways[0], [server_state.available(gateway) for gateway in gateways]
        if not any(available):
            return None, await self._not_ready(wanted)
        try:
            report = await read_report(self.client, str(self.run.metadata.namespace), self._gateway)
        except NoReportError as error:
            quiet = self._starts(wanted) or not self._silent(_PATIENCE)
            return None, None if quiet else _unreachable(str(error))
        self.silences.forget(self._key)
        return report, None if available[0] else await self._held_up(wanted)

    async def _held_up(self, wanted: Manifest) -> Waiting | None:
        """What keeps gateways from getting ready, be it that others answer in their place."""
        trouble = await self._trouble(wanted, GATEWAY)
        return _unreachable(f"gateway {self._gateway} is not ready: {trouble.message}") if trouble is not None else None

    async def _not_ready(self, wanted: Manifest) -> Waiting | None:
        trouble = await self._held_up(wanted)
        if trouble is not None or self._starts(wanted):
            return trouble
        return _unreachable(f"gateway {self._gateway} is not ready; what it waits for is in the log of its pods")

    def _silent(self, patience: float) -> bool:
        """Whether the gateway has not answered for so many seconds, or that was told before."""
        seconds = self.silences.seconds(self._key)
        before = self.run.status.live if self.run.status is not None else None
        return seconds >= patience or (before is not None and before.trouble is not None)

    def _starts(self, gateways: Manifest) -> bool:
        """Whether their pods have just started or ended, which is no news."""
        changed = server_state.availability_changed_at(gateways)
        if changed is None:
            return not self._silent(_STARTING.total_seconds())
        return self.client.clock() - changed < _STARTING

    async def _trouble(self, deployment: Manifest, component: str) -> Waiting | None:
        """What keeps pods of a Deployment or StatefulSet from getting ready."""
        labels = f"{identity.RUN_UID}={self.run.metadata.uid},{identity.COMPONENT}={component}"
        history = await server_state.read_history(self.client, deployment, labels, ())
        return server_state.trouble(deployment, history.pods)

    # What they should be

    async def carry_out(self, intent: LiveIntent | None, objects: LiveObjects, backoff: RepairBackoff) -> Repairs:
        """Makes the objects what they should be.

        Args:
            intent: None: there is to be no gateway.
            objects: as they were read.
            backoff: of things that others change again and again.

        Raises:
            ApiError: the API server refused, or could not be reached.
            ConflictError: an object is another one by now.
        """
        if intent is None or objects.servers is None:
            await remove(self.client, objects.own.values())
            return Repairs()
        gateways = Gateways(GatewayContext(objects.servers), objects.own)
        due = [
            wrong
            for desired in (*_desired(objects.servers, intent, objects), gateways.desired)
            if (wrong := self._repair(desired, objects)) is not None
        ]
        repairs = await put_right(self.client, due, backoff)
        repairs = _no_later(repairs, await gateways.end_others(self.client))
        if intent.canary is not None:
            return repairs
        left = [objects.own.get((kind, self._candidate)) for kind in (DEPLOYMENTS.kind, SERVICES.kind)]
        if left == [None, None]:
            return repairs
        wait = self._still_asked(objects, any(repair.desired["kind"] == CONFIG_MAPS.kind for repair in due))
        if wait <= 0:
            await remove(self.client, left)
        return _no_later(repairs, max(wait, 1.0))

    def _repair(self, desired: Manifest, objects: LiveObjects) -> Repair | None:
        """What is wrong; an object of somebody else is left alone."""
        child = str(desired["kind"]), str(desired["metadata"]["name"])
        if child in objects.foreign:
            return None
        return repair(desired, objects.own.get(child))

    def _still_asked(self, objects: LiveObjects, news: bool) -> float:
        """Seconds in which a gateway may still ask the candidate's servers.

        Args:
            objects: as they were read.
            news: whether the routes were changed since.
        """
        routes = objects.own.get((CONFIG_MAPS.kind, self._gateway))
        written = server_state.applied_at(routes["metadata"]) if routes is not None and not news else None
        return ROUTES_LAG if written is None else ROUTES_LAG - (self.client.clock() - written).total_seconds()


def _desired(servers: ServingContext, intent: LiveIntent, objects: LiveObjects) -> Iterator[Manifest]:
    """What is to be there beside the gateways themselves; the candidate's servers only where an image of servers is
    known, of which status.serving tells."""
    gateway = GatewayContext(servers)
    yield gateway_config_map(gateway, intent)
    yield gateway_service(gateway)
    if intent.canary is None:
        return
    candidate = candidate_of(servers, intent)
    try:
        deployment = serving_deployment(candidate, intent.canary.policy)
    except NoServerImageError:
        return
    leave_replicas(deployment, objects.own.get((DEPLOYMENTS.kind, candidate.name)))
    yield deployment
    yield serving_service(candidate)


def _no_later(repairs: Repairs, wait: float | None) -> Repairs:
    """With another look after so many seconds."""
    return replace(repairs, wait=min(filter(None, (repairs.wait, wait)), default=None))


def _unreachable(text: str) -> Waiting:
    return Waiting(reason=Reason.GATEWAY_UNREACHABLE, message=text)
