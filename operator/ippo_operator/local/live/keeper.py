"""Carries out a plan's LiveIntent with processes of this machine, and tells what became of it."""

import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess

from ippo_trainer.contract.live import Routes
from ippo_trainer.contract.spec import Digest

from ippo_operator.api.reasons import Reason
from ippo_operator.api.run_sections import Gateway
from ippo_operator.api.status import DeployedPolicy, Waiting
from ippo_operator.local.live.gateway import LocalGateway, check_port, url_of
from ippo_operator.local.live.servers import Place, PolicyServer
from ippo_operator.manifests.routes import Addresses, routes
from ippo_operator.plan.types import LiveIntent, ObservedLive

_ROUTED_SECONDS = 5.0
"""That the gateway has to read other routes before a server that they name no more ends."""
_LOOK_SECONDS = 10.0
"""Between two looks at the report, at most."""
_PATIENCE = 60.0
"""Seconds for which a gateway that runs may give no report."""


class LiveProcesses:
    """The gateway and the policy servers of a run.

    Args:
        place: of their files.
        clock: seconds that only grow.
    """

    def __init__(self, place: Place, clock: Callable[[], float] = time.monotonic) -> None:
        self._place = place
        self._clock = clock
        self._servers: dict[Digest, PolicyServer] = {}
        self._gateway: LocalGateway | None = None
        self._intent: LiveIntent | None = None
        self._active: DeployedPolicy | None = None
        """The policy that the gateway is told is active."""
        self._silent_since: float | None = None
        """When the gateway gave no report for the first time; None since it gave one."""
        self._looked_at = clock()
        self.observed = ObservedLive()
        """How things stood at the last look."""

    @property
    def url(self) -> str:
        """Where applications ask."""
        return url_of((self._place.run.spec.gateway or Gateway()).port)

    def processes(self) -> list[BaseProcess]:
        """Those that run."""
        kept = [server.process for server in self._servers.values()]
        kept += [self._gateway.process] if self._gateway is not None else []
        return [process for process in kept if process is not None and process.is_alive()]

    def check_port(self) -> None:
        """Raises PortTakenError if the gateway could not listen."""
        check_port((self._place.run.spec.gateway or Gateway()).port)

    def carry_out(self, intent: LiveIntent | None) -> None:
        """What there has to be from now on; nothing before there is a policy.

        Raises:
            PortTakenError: the gateway cannot listen.
        """
        self._intent = intent
        self.keep()

    def keep(self) -> None:
        """Starts what is missing, tells the gateway where policies are asked, ends what is needed no more."""
        intent = self._intent
        if intent is None:
            return
        if self._gateway is None:
            self.check_port()
            self._place.folder.mkdir(parents=True, exist_ok=True)
            self._gateway = LocalGateway(self._place, self._clock)
        wanted = [intent.active, *([intent.canary.policy] if intent.canary is not None else [])]
        for policy in wanted:
            digest = policy.artifact.digest
            if digest not in self._servers:
                self._servers[digest] = PolicyServer(self._place, policy, self._clock)
            self._servers[digest].retire_at = None
        for server in self._servers.values():
            if server.retire_at is None:
                server.keep()
        if self._active is not None or self._servers[intent.active.artifact.digest].ready():
            self._gateway.keep(self._routes(intent))  # never in front of servers that cannot answer yet
        self._retire({policy.artifact.digest for policy in wanted})
        if self._clock() - self._looked_at >= _LOOK_SECONDS:
            self.observe()  # also while nobody asks: a gateway that is asked seldom has much to count

    def _routes(self, intent: LiveIntent) -> Routes:
        """Another active policy is named once its server takes requests."""
        server = self._servers[intent.active.artifact.digest]
        if server.ready():
            self._active = intent.active
        current = self._active or intent.active
        active = self._servers[current.artifact.digest]
        canary = intent.canary
        # A candidate under test keeps its route while its server is started again: the gateway knows how to do without.
        candidate = "" if canary is None else self._servers[canary.policy.artifact.digest].url
        return routes(self._place.run, LiveIntent(current, canary), Addresses(active.url, candidate))

    def _retire(self, wanted: set[Digest]) -> None:
        """Servers that nobody wants end some seconds after the routes stopped to name them."""
        now = self._clock()
        routed = self._active.artifact.digest if self._active is not None else None
        for digest, server in list(self._servers.items()):
            if digest in wanted or digest == routed:
                continue
            if server.retire_at is None:
                server.retire_at = now + _ROUTED_SECONDS
            elif now >= server.retire_at:
                server.tell_to_end()
                if server.process is None or not server.process.is_alive():
                    server.wait(now)
                    del self._servers[digest]

    def observe(self) -> ObservedLive:
        """How things stand now."""
        self._looked_at = self._clock()
        self.observed = self._look()
        return self.observed

    def _look(self) -> ObservedLive:
        intent, gateway = self._intent, self._gateway
        if intent is None or gateway is None:
            return ObservedLive()
        report, trouble = gateway.report(), None
        if report is not None:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = self._clock()
        silent = 0.0 if self._silent_since is None else self._clock() - self._silent_since
        why = gateway.trouble or self._servers[intent.active.artifact.digest].trouble
        if report is None and (why or silent > _PATIENCE):
            text = f"the gateway does not answer{why and f': {why}'}"
            trouble = Waiting(reason=Reason.GATEWAY_UNREACHABLE, message=text)
        if intent.canary is None:
            return ObservedLive(report, trouble)
        candidate = self._servers[intent.canary.policy.artifact.digest]
        return ObservedLive(report, trouble, candidate.ready(), candidate.failure)

    def end(self, grace: float, hurry: Callable[[], bool] = lambda: False) -> None:
        """Ends all: the gateway first, for it needs the servers for what it has to answer."""
        until = self._clock() + grace
        if self._gateway is not None:
            self._gateway.tell_to_end()
            self._gateway.wait(until, hurry)
            self._gateway = None
        for server in self._servers.values():
            server.tell_to_end()
        for server in self._servers.values():
            server.wait(until, hurry)
        self._servers.clear()
        self._intent = self._active = None
