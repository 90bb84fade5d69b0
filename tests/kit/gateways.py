"""A gateway in the test's process: in front of stubs of policy servers, with a journal of its own."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp.test_utils import TestClient, TestServer
from ippo_trainer.contract.live import Canary, CanaryRoute, Route, Routes
from ippo_trainer.contract.personas import Persona
from ippo_trainer.gateway.admission import GatewayLimits
from ippo_trainer.gateway.app import GatewayParts, GatewayServer
from ippo_trainer.gateway.event_log import EventLog
from ippo_trainer.gateway.keys import Keys, OpenGate
from ippo_trainer.gateway.metrics import GatewayMetrics
from ippo_trainer.gateway.policies import Patience, Policies
from ippo_trainer.live.checked import read_event
from ippo_trainer.live.journal import Journal, JournalLimits
from ippo_trainer.live.journal_file import events_in

from tests.kit.stub_policy import StubPolicy

ACTIVE, CANDIDATE = f"sha256:{'a' * 64}", f"sha256:{'c' * 64}"
RUN = "demo"


@dataclass
class Bench:
    """A gateway and what is around it."""

    client: TestClient[Any, Any]
    server: GatewayServer
    active: StubPolicy
    candidate: StubPolicy
    routes: Routes
    """May be changed."""
    journal: Journal
    metrics: GatewayMetrics

    def events(self) -> list[dict[str, Any]]:
        """What is on the disk, in order; readers can read it."""
        paths = sorted(self.journal.directory.glob("*.journal"))
        return [read_event(event, path.name) for path in paths for event in events_in(path)]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """Events of a kind."""
        return [event for event in self.events() if event["kind"] == kind]

    def share(self, share: str) -> None:
        """Gives the candidate a share of conversations."""
        self.routes = routes(self.active.url, self.candidate.url, share)


def routes(active: str, candidate: str, share: str | None = None, personas: tuple[Persona, ...] = ()) -> Routes:
    """Routes to two servers."""
    canary = None
    if share is not None:
        route = Route(digest=CANDIDATE, url=candidate)
        canary = CanaryRoute(route=route, iteration=2, since=0.0, settings=Canary(share=share))
    return Routes(
        run=RUN,
        active=Route(digest=ACTIVE, url=active),
        canary=canary,
        personas=personas,
        idle="30m",
        outcome_window="7d",
    )


@asynccontextmanager
async def gateway(
    directory: Path,
    keys: Keys | None = None,
    limits: GatewayLimits | None = None,
    journal_limits: JournalLimits | None = None,
    patience: Patience | None = None,
    **more: Any,
) -> AsyncIterator[Bench]:
    """A gateway; without a canary at first."""
    async with AsyncExitStack() as stack:
        active = await stack.enter_async_context(StubPolicy(ACTIVE))
        candidate = await stack.enter_async_context(StubPolicy(CANDIDATE))
        journal = Journal(directory / "journal", journal_limits or JournalLimits(seconds=3600.0))
        stack.callback(journal.release)
        stack.callback(journal.close)
        policies = Policies(64, patience or Patience(rest=0.0))
        await policies.start()
        stack.push_async_callback(policies.stop)
        gate, metrics = keys or OpenGate(), GatewayMetrics()
        holder: list[Bench] = []
        server = GatewayServer(
            GatewayParts(
                lambda: holder[0].routes,
                lambda: gate,
                policies,
                EventLog(journal),
                metrics,
                limits or GatewayLimits(),
                **more,
            )
        )
        listener = TestServer(server.application())
        await listener.start_server(keepalive_timeout=(limits or GatewayLimits()).idle_seconds)
        client = await stack.enter_async_context(TestClient(listener))
        bench = Bench(client, server, active, candidate, routes(active.url, candidate.url), journal, metrics)
        holder.append(bench)
        yield bench
