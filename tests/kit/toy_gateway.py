"""What a run's gateway answers on the fake API: it knows the routes that the operator wrote, and counts what a test
says that customers did."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from ippo_trainer.contract.live import REPORT_PATH, ArmReport, CanaryVerdict, LiveReport, Routes
from ippo_trainer.contract.spec import Outcome

from tests.kit.fake_api import FakeApi
from tests.kit.planner_world import START

LIVE: dict[str, Any] = {
    "warmStart": {"conversations": "s3://shop/log.jsonl"},
    "collect": {"logged": {"minConversations": 100, "minOutcomes": 5}},
    "serve": {"strategy": "Canary", "progressDeadlineSeconds": 600},
}
"""A run whose policy talks to customers."""
COUNTED = START + timedelta(minutes=10)
"""When its figures are of, always: what a run comes to does not depend on when somebody asks."""


@dataclass
class Customers:
    """What they did, as a gateway counts it."""

    known: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Conversations with a known outcome, and outcomes, by the policy's digest."""
    enough: bool = True
    """Whether policies that `known` does not name have as many as anybody may want."""
    outcome: Outcome | None = "Promote"
    """What a test comes to, at once; None goes on."""

    def report(self, routes: Routes) -> LiveReport:
        """What a gateway with these routes says."""
        digest, default = routes.active.digest, (1000, 100) if self.enough else (0, 0)
        known, outcomes = self.known.get(digest, default)
        report = LiveReport(
            time=COUNTED.timestamp(), active=ArmReport(digest=digest), usable=known, usable_outcomes=outcomes
        )
        if routes.canary is None:
            return report
        candidate = routes.canary.route.digest
        verdict = CanaryVerdict(
            digest=candidate,
            since=routes.canary.since,
            outcome=self.outcome,
            reason=f"the test says {self.outcome}.",
            lift=0.1,
            low=0.01,
            high=0.2,
        )
        sides = {
            "control": ArmReport(digest=digest, conversations=900, outcomes=90),
            "candidate": ArmReport(digest=candidate, conversations=100, outcomes=20),
        }
        return report.model_copy(update=sides | {"verdict": verdict})

    def body(self, routes: str) -> bytes:
        """The same as bytes, of a file of routes."""
        report = self.report(Routes.model_validate_json(routes))
        return report.model_dump_json(by_alias=True, exclude_none=True).encode()


@dataclass
class ToyGateway(Customers):
    """Gateways of the run team/small, on the fake API."""

    api: FakeApi = field(default_factory=FakeApi)
    asked: int = 0
    said: str = ""
    """The routes that they read last."""

    def __post_init__(self) -> None:
        self.api.behind = self.answer

    def routes(self) -> Routes:
        """What the gateway is told, or was, where the file is gone."""
        there = self.api.objects.get(("configmaps", "team", "small-gateway"))
        self.said = there["data"]["routes.json"] if there is not None else self.said
        return Routes.model_validate_json(self.said)

    def answer(self, service: str, path: str) -> bytes | None:
        """As pods do behind the proxy."""
        assert (service, path) == ("team/small-gateway:internal", REPORT_PATH)
        self.asked += 1
        if ("configmaps", "team", "small-gateway") not in self.api.objects and not self.said:
            return None  # no pod starts without its volume
        self.routes()
        return self.body(self.said)
