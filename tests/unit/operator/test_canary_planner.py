"""A candidate in an A/B test: when it begins, what ends it, and who has the last word."""

from datetime import timedelta
from typing import Any

import pytest
from ippo_operator.api.reasons import Reason
from ippo_operator.api.status import ArmCounts, Waiting
from ippo_operator.plan.live import POLL
from ippo_operator.plan.phase import phase
from ippo_trainer.contract.spec import Decision

from tests.kit.live_world import LiveCluster, make_live_run
from tests.kit.planner_world import changed, status


def under_test(**spec: Any) -> LiveCluster:
    """A run whose first candidate is under test."""
    world = LiveCluster(make_live_run(iterations={"max": 2}, **spec))
    world.until_canary()
    return world


def test_servers_come_first_and_the_gateway_is_told_once_they_are_ready() -> None:
    world = LiveCluster(make_live_run())
    world.until_candidate()
    assert world.says("Ready") == ("False", "CanaryRunning")
    assert world.message("Ready") == "the candidate of iteration 1 waits for servers of its own, for an A/B test"
    live = world.plan().live
    assert live is not None
    assert live.canary is not None
    assert (live.canary.since, live.canary.policy.iteration) == (None, 1)
    assert live.canary.policy.artifact == status(world).iterations[-1].artifact("improve")
    assert live.active.iteration == 0
    world.ready = True
    world.later()
    started = world.canary().started_at
    assert started is not None
    live = world.plan().live
    assert live is not None
    assert live.canary is not None
    assert live.canary.since == started
    assert world.events.count("CanaryStarted") == 1
    assert world.says("Promoted") == ("Unknown", "CanaryRunning")


def test_while_it_runs_there_is_no_job_and_the_counts_are_shown() -> None:
    world = under_test()
    done = world.plan()
    assert (done.creates, done.requeue_after) == ((), POLL)
    assert not phase(world.run.spec, status(world), world.now).at_rest
    world.shop.control, world.shop.candidate = [900, 90], [100, 20]
    world.later()
    assert world.canary().candidate == ArmCounts(conversations=100, outcomes=20)
    assert world.message("Ready") == (
        "the candidate of iteration 1 gets 10% of new conversations: 20 outcomes of 100, the policy before it 90 "
        "outcomes of 900; lift +0.1000 (+0.0100 to +0.2000)"
    )


@pytest.mark.parametrize(
    ("outcome", "promoted", "truth", "reason"),
    [
        ("Promote", True, "True", "Promoted"),
        ("Reject", False, "False", "CanaryFailed"),
        ("Inconclusive", False, "False", "CanaryInconclusive"),
    ],
)
def test_its_verdict_settles_the_iteration_and_the_next_one_begins(
    outcome: Any, promoted: bool, truth: str, reason: str
) -> None:
    world = under_test()
    world.shop.control, world.shop.candidate, world.shop.outcome = [900, 90], [100, 20], outcome
    world.now += timedelta(seconds=1)
    world.go()
    first = world.row(1)
    assert first.promoted is promoted
    assert first.canary is not None
    assert (first.canary.outcome, first.canary.reason) == (outcome, f"the test says {outcome}.")
    assert first.canary.candidate.conversations == 100, "what decided is what is written down"
    assert first.canary.finished_at is not None
    assert world.says("Promoted") == (truth, reason)
    assert world.message("Promoted") == f"iteration 1: the test says {outcome}."
    policy = status(world).policy
    assert policy is not None
    assert policy.iteration == int(promoted)
    assert status(world).iteration == 2
    assert status(world).consecutive_rejections == int(not promoted)
    assert world.events.count(reason) == 1
    live = world.plan().live
    assert live is not None
    assert (live.active, live.canary) == (policy, None)


@pytest.mark.parametrize("forecast", ["Promote", "Inconclusive", "Reject"])
def test_a_forecast_keeps_out_of_the_test_only_what_it_rejects(forecast: Any) -> None:
    world = LiveCluster(make_live_run(iterations={"max": 1}))
    world.go()
    world.talk(100, 5)
    decision = {"decision": Decision(outcome=forecast, reason="as Q has it.")}
    world.work(lambda spec: decision if spec.stage == "evaluate" else {})
    if forecast == "Reject":
        assert world.says("Promoted") == ("False", "GateFailed")
        assert status(world).iterations[-1].canary is None
    else:
        assert world.says("Promoted") == ("Unknown", "CanaryRunning")


@pytest.mark.parametrize(("field", "promoted"), [("approve", True), ("reject", False)])
@pytest.mark.parametrize("started", [True, False])
def test_a_human_ends_it_at_any_time(field: str, promoted: bool, started: bool) -> None:
    world = LiveCluster(make_live_run(iterations={"max": 2}))
    (world.until_canary if started else world.until_candidate)()
    world.run = changed(world.run, promotion={field: 1})
    world.go()
    first = world.row(1)
    assert first.promoted is promoted
    assert first.canary is not None
    assert (first.canary.outcome, first.canary.finished_at) == (None, world.now)
    assert f"spec.promotion.{field} names iteration 1 and ends its A/B test" in world.message("Promoted")
    assert world.says("Promoted")[1] == ("Promoted" if promoted else "NotApproved")
    live = world.plan().live
    assert live is not None
    assert live.canary is None


def test_an_answer_that_was_there_before_saves_the_test() -> None:
    world = LiveCluster(make_live_run(promotion={"approve": 1}))
    world.go()
    world.talk(100, 5)
    world.go()
    assert [row.promoted for row in status(world).iterations] == [None, True]
    assert status(world).iterations[-1].canary is None
    assert "CanaryStarted" not in world.events


def test_with_mode_manual_the_test_runs_and_then_a_human_has_the_last_word() -> None:
    world = under_test(promotion={"mode": "Manual"})
    assert world.says("Ready") == ("False", "CanaryRunning")
    world.shop.outcome = "Promote"
    world.later()
    assert world.says("Ready") == ("False", "AwaitingApproval")
    assert "The A/B test: the test says Promote. The gate: better" in world.message("Promoted")
    live = world.plan().live
    assert live is not None
    assert live.canary is None, "who waits for a human gets no conversations"
    assert phase(world.run.spec, status(world), world.now).at_rest
    assert world.plan().requeue_after is None
    before = status(world)
    world.later(days=99)
    assert status(world) == before
    world.run = changed(world.run, promotion={"mode": "Manual", "reject": 1})
    world.go()
    assert world.says("Promoted") == ("False", "NotApproved")
    assert world.row(1).promoted is False


def test_with_mode_manual_what_the_test_refused_needs_no_human() -> None:
    world = under_test(promotion={"mode": "Manual"})
    world.shop.outcome = "Inconclusive"
    world.later()
    assert world.says("Promoted") == ("False", "CanaryInconclusive")
    assert status(world).iteration == 2


@pytest.mark.parametrize("started", [True, False])
def test_servers_that_fail_end_it_without_an_answer(started: bool) -> None:
    world = LiveCluster(make_live_run(iterations={"max": 2}))
    (world.until_canary if started else world.until_candidate)()
    world.failed = "out of memory"
    world.later()
    assert world.says("Promoted") == ("False", "CanaryInconclusive")
    assert "the candidate's servers failed: out of memory" in world.message("Promoted")


def test_servers_that_never_come_and_a_gateway_that_never_answers_end_it_in_the_end() -> None:
    for started in (False, True):
        world = LiveCluster(make_live_run(serve={"strategy": "Canary", "canary": {"maxDuration": "2h"}}))
        (world.until_canary if started else world.until_candidate)()
        world.answers = False
        world.later(hours=1, minutes=59)
        assert world.says("Promoted") == ("Unknown", "CanaryRunning")
        world.later(minutes=2)
        assert world.says("Promoted") == ("False", "CanaryInconclusive")
        assert "maxDuration 2h is over" in world.message("Promoted")


def test_what_is_said_of_another_test_does_not_count() -> None:
    world = under_test()
    report = world.observed_live().report
    assert report is not None
    assert report.verdict is not None
    started = world.canary().started_at
    for changes in ({"digest": "sha256:" + "0" * 64}, {"since": report.verdict.since - 1}):
        said = report.model_copy(update={"verdict": report.verdict.model_copy(update={"outcome": "Promote"} | changes)})
        world._report = lambda said=said: said  # type: ignore[method-assign]
        world.later()
        assert (world.canary().started_at, world.canary().finished_at) == (started, None)


def test_another_share_begins_it_anew_and_other_settings_do_not() -> None:
    world = under_test()
    world.shop.candidate = [50, 5]
    world.later()
    started = world.canary().started_at
    world.run = changed(world.run, serve={"strategy": "Canary", "canary": {"level": "0.01"}})
    world.later()
    assert world.canary().started_at == started
    world.run = changed(world.run, serve={"strategy": "Canary", "canary": {"share": "0.5"}})
    world.later()
    again = world.canary()
    assert again.started_at is not None
    assert started is not None
    assert again.started_at > started
    assert (again.share, again.candidate) == ("0.5", ArmCounts())
    assert world.events.count("CanaryStarted") == 2


def test_without_the_strategy_a_human_decides_and_with_it_again_it_begins_anew() -> None:
    world = under_test()
    started = world.canary().started_at
    world.run = changed(world.run, serve={"strategy": "Surge"})
    world.later()
    assert world.says("Ready") == ("False", "AwaitingApproval")
    assert status(world).iterations[-1].canary is None
    assert world.plan().live.canary is None  # type: ignore[union-attr]
    world.run = changed(world.run, serve={"strategy": "Canary"})
    world.later()
    again = world.canary().started_at
    assert again is not None
    assert started is not None
    assert again > started


def test_a_candidate_that_is_the_policy_before_it_is_not_tested() -> None:
    world = LiveCluster(make_live_run(iterations={"max": 1}))
    world.go()
    world.talk(100, 5)
    world.work(lambda spec: {"artifacts": {"policy": spec.inputs["policy"]}} if spec.stage == "improve" else {})
    assert world.says("Promoted") == ("False", "CanaryInconclusive")
    assert "the very policy before it" in world.message("Promoted")


class TestSuspended:
    """Customers go on being answered as they were; the policy does not change."""

    def test_the_test_goes_on_and_a_promotion_waits(self) -> None:
        world = under_test()
        world.run = changed(world.run, suspend=True)
        world.later()
        live = world.plan().live
        assert live is not None
        assert live.canary is not None
        assert world.plan().requeue_after == POLL
        world.shop.outcome = "Promote"
        world.later()
        assert (world.canary().outcome, status(world).iterations[-1].promoted) == ("Promote", None)
        assert world.says("Suspended") == ("True", "Suspended")
        assert world.plan().requeue_after is None
        assert world.plan().live.canary is None  # type: ignore[union-attr]
        world.run = changed(world.run, suspend=False)
        world.go()
        assert status(world).policy.iteration == 1  # type: ignore[union-attr]

    @pytest.mark.parametrize("field", ["approve", "reject"])
    def test_so_does_a_human(self, field: str) -> None:
        world = under_test()
        world.run = changed(world.run, suspend=True, promotion={field: 1})
        world.later()
        assert status(world).iterations[-1].promoted is None
        world.run = changed(world.run, suspend=False)
        world.go()
        assert world.row(1).promoted is (field == "approve")

    def test_what_is_bad_gets_no_conversations_any_more(self) -> None:
        world = under_test()
        world.run = changed(world.run, suspend=True)
        world.shop.outcome = "Reject"
        world.later()
        assert world.plan().live.canary is None  # type: ignore[union-attr]
        assert status(world).iterations[-1].promoted is None


def test_trouble_is_said_and_told_once() -> None:
    world = under_test()
    world.answers = False
    world.trouble = Waiting(reason=Reason.GATEWAY_UNREACHABLE, message="the gateway does not answer: refused")
    for _ in range(3):
        world.later()
    assert world.says("Ready") == ("False", "GatewayUnreachable")
    assert world.says("Promoted") == ("Unknown", "CanaryRunning")
    assert world.events.count("GatewayUnreachable") == 1


def test_stop_conditions_see_what_the_test_measured() -> None:
    stop = {"max": 5, "stopWhen": {"successAtLeast": "0.25"}}
    world = LiveCluster(make_live_run(iterations=stop))
    world.until_canary()
    world.shop.control, world.shop.candidate, world.shop.outcome = [900, 90], [100, 26], "Promote"
    world.later()
    assert world.says("Succeeded") == ("True", "StopConditionMet")
    rejections = LiveCluster(make_live_run(iterations={"max": 5, "stopWhen": {"consecutiveRejections": 1}}))
    rejections.until_canary()
    rejections.shop.outcome = "Reject"
    rejections.later()
    assert rejections.says("Succeeded") == ("True", "StopConditionMet")


def test_the_candidates_conversations_are_the_next_iterations_data() -> None:
    world = under_test()
    candidate = status(world).iterations[-1].artifact("improve")
    assert candidate is not None
    world.shop.known[candidate.digest] = [90, 30]
    world.shop.outcome = "Promote"
    world.later()
    assert world.live().conversations == 90
