"""A simulated world for the planner's tests of live runs: a gateway that counts what a test says that customers do."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.status import CanaryStatus, IterationStatus, LiveStatus, Waiting
from ippo_operator.plan.planner import plan
from ippo_operator.plan.types import LiveIntent, ObservedLive, Plan
from ippo_trainer.contract.live import ArmReport, CanaryVerdict, LiveReport
from ippo_trainer.contract.spec import Outcome, StageResult, StageSpec

from tests.kit.planner_world import STORE, Cluster, good_result, make_run, status


def make_live_run(**spec: Any) -> IterativePPORun:
    """A valid run that learns from live conversations, with some fields of its spec replaced."""
    whole: dict[str, Any] = {
        "warmStart": {"conversations": "s3://shop/log.jsonl"},
        "collect": {"logged": {"minConversations": 100, "minOutcomes": 5}},
        "serve": {"engine": "Transformers", "strategy": "Canary"},
    }
    return make_run(**whole | spec)


def well_done(spec: StageSpec, **changes: Any) -> StageResult:
    """What a stage of such a run hands back: its collect has no shards."""
    return good_result(spec, **({"shard": None} if spec.stage == "collect" else {}) | changes)


@dataclass
class Shop:
    """What customers did, by the digest of the policy that they talked to."""

    known: dict[str, list[int]] = field(default_factory=dict)
    """Conversations with a known outcome, and outcomes."""
    control: list[int] = field(default_factory=lambda: [0, 0])
    candidate: list[int] = field(default_factory=lambda: [0, 0])
    """Of the test that runs."""
    outcome: Outcome | None = None
    """What its verdict is."""


class LiveCluster(Cluster):
    """A cluster with a gateway; `told` is what the gateway knows."""

    def __init__(self, run: IterativePPORun) -> None:
        super().__init__(run)
        self.shop = Shop()
        self.told: LiveIntent | None = None
        self.answers = True
        self.trouble: Waiting | None = None
        self.ready = True
        """Whether servers of a candidate get ready."""
        self.failed = ""

    def plan(self) -> Plan:
        seen = self.observed_servers()
        return plan(self.run, tuple(self.jobs.values()), self.now, STORE, seen, self.observed_live())

    def step(self, die_after: int = 9) -> Plan:
        done = super().step(die_after)
        if die_after >= 2:
            if _test(done.live) != _test(self.told):
                self.shop.control, self.shop.candidate, self.shop.outcome = [0, 0], [0, 0], None
            self.told = done.live
        return done

    def talk(self, conversations: int, outcomes: int) -> None:
        """Customers talk to the active policy, and their outcomes become known."""
        assert self.told is not None
        counts = self.shop.known.setdefault(self.told.active.artifact.digest, [0, 0])
        counts[0] += conversations
        counts[1] += outcomes

    def observed_live(self) -> ObservedLive:
        test = self.told.canary if self.told is not None else None
        return ObservedLive(
            report=self._report() if self.answers else None,
            trouble=self.trouble,
            candidate_ready=test is not None and self.ready,
            candidate_failed=self.failed if test is not None else "",
        )

    def _report(self) -> LiveReport | None:
        if self.told is None:
            return None
        digest, test = self.told.active.artifact.digest, self.told.canary
        known = self.shop.known.get(digest, [0, 0])
        report = LiveReport(
            time=self.now.timestamp(), active=_arm(digest, known), usable=known[0], usable_outcomes=known[1]
        )
        if test is None or test.since is None:
            return report
        candidate, said = test.policy.artifact.digest, self.shop.outcome
        verdict = CanaryVerdict(
            digest=candidate,
            since=test.since.timestamp(),
            outcome=said,
            reason=f"the test says {said}." if said else "",
            lift=0.1,
            low=0.01,
            high=0.2,
        )
        sides = {"control": _arm(digest, self.shop.control), "candidate": _arm(candidate, self.shop.candidate)}
        return report.model_copy(update=sides | {"verdict": verdict})

    def go(self) -> None:
        """Goes on, as all goes well, until customers are waited for or the run is at rest."""
        for _ in range(500):
            done = self.step()
            running = self.running()
            if running is not None:
                self.step()
                self.now += timedelta(seconds=7)
                self.end(running, well_done(running.spec))
            elif not self.wake_servers() and not done.creates and self.plan().status == done.status:
                return
        raise AssertionError("it does not come to rest")

    def work(self, changes: Callable[[StageSpec], dict[str, Any]]) -> None:
        """Stages end, each with what `changes` says of its result, until none is running for a while."""
        for _ in range(40):
            self.step()
            running = self.running()
            if running is not None:
                self.step()
                self.end(running, well_done(running.spec, **changes(running.spec)))

    def until_candidate(self) -> None:
        """Goes on until the first candidate waits for its test, before its servers were looked at."""
        self.ready = False
        self.go()
        self.talk(100, 5)
        self.go()

    def until_canary(self) -> None:
        """Goes on until the first candidate is under test."""
        self.until_candidate()
        self.ready = True
        self.go()

    def later(self, **wait: float) -> None:
        """So much time passes, and the run is looked at."""
        self.now += timedelta(**(wait or {"minutes": 2}))
        self.go()

    def says(self, kind: str) -> tuple[str, str]:
        """Status and reason of a condition."""
        condition = status(self).condition(kind)  # type: ignore[arg-type]
        assert condition is not None
        return condition.status, str(condition.reason)

    def message(self, kind: str) -> str:
        condition = status(self).condition(kind)  # type: ignore[arg-type]
        assert condition is not None
        return condition.message

    def row(self, iteration: int) -> IterationStatus:
        [row] = [row for row in status(self).iterations if row.iteration == iteration]
        return row

    def canary(self) -> CanaryStatus:
        """Of the latest iteration."""
        record = status(self).iterations[-1].canary
        assert record is not None
        return record

    def live(self) -> LiveStatus:
        record = status(self).live
        assert record is not None
        return record


def _arm(digest: str, counts: list[int]) -> ArmReport:
    return ArmReport(digest=digest, conversations=counts[0], outcomes=counts[1])


def _test(live: LiveIntent | None) -> tuple[str, datetime | None] | None:
    if live is None or live.canary is None:
        return None
    return live.canary.policy.artifact.digest, live.canary.since
