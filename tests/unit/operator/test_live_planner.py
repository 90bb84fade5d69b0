"""Runs that wait for live conversations: without a job, with progress in a status that is seldom written."""

from datetime import timedelta
from typing import Any

import pytest
from ippo_operator.api.changes import problems
from ippo_operator.api.reasons import Reason
from ippo_operator.api.status import Waiting
from ippo_operator.plan.live import POLL
from ippo_operator.plan.phase import phase
from ippo_operator.plan.types import JobFailure, JobIntent

from tests.kit.live_world import LiveCluster, make_live_run
from tests.kit.planner_world import changed, status

WAITS = "WaitingForConversations"
DOWN = Waiting(reason=Reason.GATEWAY_UNREACHABLE, message="the gateway does not answer: refused")


def waiting(**spec: Any) -> LiveCluster:
    """A run that waits for customers of its first policy."""
    world = LiveCluster(make_live_run(**spec))
    world.go()
    return world


def collects(world: LiveCluster) -> list[JobIntent]:
    return [intent for intent in world.created if intent.spec.stage == "collect"]


def test_it_waits_without_a_job_and_says_for_what() -> None:
    world = waiting()
    assert [intent.spec.stage for intent in world.created] == ["warm-start"]
    assert world.says("Ready") == ("False", WAITS)
    assert world.says("Reconciling") == ("True", WAITS)
    done = world.plan()
    assert (done.creates, done.deletes, done.requeue_after) == ((), (), POLL)
    assert status(world).active is None
    assert not phase(world.run.spec, status(world), world.now).at_rest
    world.talk(40, 3)
    world.later()
    assert world.message("Ready") == (
        "iteration 1 waits for live conversations of the policy of iteration 0: 40 of 100 with a known outcome, "
        "3 of 5 with the outcome"
    )


@pytest.mark.parametrize(("conversations", "outcomes"), [(99, 50), (5000, 4), (0, 0)])
def test_both_numbers_have_to_be_there(conversations: int, outcomes: int) -> None:
    world = waiting()
    world.talk(conversations, outcomes)
    world.later()
    assert world.says("Ready") == ("False", WAITS)
    world.talk(100, 5)
    world.later(seconds=1)
    assert len(collects(world)) == 1


def test_it_collects_what_happened_until_there_was_enough_however_often_that_takes() -> None:
    world = waiting()
    world.talk(100, 5)
    world.now += timedelta(hours=1)
    until = int(world.now.timestamp())
    world.step()
    first = world.running()
    assert first is not None
    assert (first.spec.until, first.shards) == (until, None)
    assert first.spec.logged is not None
    assert "minConversations" not in first.spec.logged.model_dump(by_alias=True)
    world.step()
    world.end(first, JobFailure(75))
    world.talk(1000, 50)
    world.step()
    world.now += timedelta(minutes=1)
    world.step()
    second = world.running()
    assert second is not None
    assert second.name != first.name
    assert second.spec.input_digest() == first.spec.input_digest()
    assert world.events.count("EnoughConversations") == 1


def test_other_stages_have_no_such_time() -> None:
    world = waiting()
    world.talk(100, 5)
    world.go()
    assert {intent.spec.stage for intent in world.created if intent.spec.until is not None} == {"collect"}


def test_conversations_of_another_policy_do_not_count() -> None:
    world = waiting()
    for digest in ("sha256:" + "0" * 64, "sha256:" + "1" * 64):
        world.shop.known[digest] = [1000, 500]
    world.later()
    assert world.live().conversations == 0
    world.talk(100, 5)
    world.until_canary()
    world.shop.outcome = "Promote"
    world.later()
    assert (status(world).iteration, world.live().conversations) == (2, 0), "those of the policy before are not its own"
    assert world.says("Ready") == ("False", WAITS)


def test_new_figures_alone_are_written_once_a_minute() -> None:
    world = waiting()
    written = 0
    for _ in range(300):
        world.talk(1, 0)
        before = world.run.status
        world.now += timedelta(seconds=POLL)
        world.step()
        written += world.run.status != before
    assert written <= 101
    assert world.live().conversations >= 297


def test_a_gateway_that_does_not_answer_is_told_once_and_heals() -> None:
    world = waiting()
    world.answers, world.trouble = False, DOWN
    world.later()
    for number in (7, 12):
        text = f"{DOWN.message} after {number} s"
        world.trouble = Waiting(reason=Reason.GATEWAY_UNREACHABLE, message=text)
        world.later()
    assert world.says("Ready") == ("False", "GatewayUnreachable")
    assert world.message("Ready").endswith(f"{DOWN.message} after 7 s"), "a cause keeps its first words"
    assert world.events.count("GatewayUnreachable") == 2
    text = "the gateway does not answer: its certificate has expired"
    world.trouble = Waiting(reason=Reason.GATEWAY_UNREACHABLE, message=text)
    world.later()
    assert world.message("Ready").endswith(text), "another cause is told"
    assert world.events.count("GatewayUnreachable") == 3
    assert world.plan().requeue_after == POLL
    world.answers, world.trouble = True, None
    world.later()
    assert world.says("Ready") == ("False", WAITS)


def test_less_may_be_wanted_in_mid_run_and_nothing_else_of_the_section_changes() -> None:
    world = waiting()
    world.talk(60, 5)
    world.later()
    lower = changed(world.run, collect={"logged": {"minConversations": 60, "minOutcomes": 5}})
    assert problems(world.run.spec, lower.spec) == []
    other = changed(world.run, collect={"logged": {"minConversations": 100, "minOutcomes": 5, "idle": "1h"}})
    assert [problem.path for problem in problems(world.run.spec, other.spec)] == ["spec.collect.logged.idle"]
    world.run = lower
    world.later(seconds=1)
    assert len(collects(world)) == 1


def test_what_is_wanted_may_change_while_a_stage_is_tried_again() -> None:
    """It is no input of the stage, so the attempt is the same."""
    world = waiting()
    world.talk(100, 5)
    world.step(die_after=1)
    world.run = changed(world.run, collect={"logged": {"minConversations": 60}})
    world.step()
    world.step()
    assert world.running() is not None
    assert "ChildConflict" not in world.events


def test_a_suspended_run_waits_for_nobody_and_goes_on_with_what_came_meanwhile() -> None:
    world = waiting()
    world.run = changed(world.run, suspend=True)
    world.go()
    assert world.says("Suspended") == ("True", "Suspended")
    before = status(world)
    world.talk(100, 5)
    world.later()
    assert status(world) == before
    assert world.plan().requeue_after is None
    assert world.plan().live is not None, "customers are answered all the same"
    world.run = changed(world.run, suspend=False)
    world.go()
    assert len(collects(world)) == 1


def test_a_history_comes_first_and_needs_no_customers() -> None:
    world = LiveCluster(
        make_live_run(
            collect={"history": {"conversations": "s3://shop/log.jsonl"}, "logged": {"minConversations": 100}},
            serve={"engine": "Transformers"},
        )
    )
    world.go()
    assert [intent.spec.until for intent in collects(world)] == [None]
    assert collects(world)[0].spec.logged is None
    world.run = changed(world.run, promotion={"approve": 1})
    world.go()
    assert (status(world).iteration, world.says("Ready")) == (2, ("False", WAITS))


def test_a_q_that_tells_nothing_waits_for_as_many_more() -> None:
    world = waiting(fitQ={"onUninformative": "CollectMore"})
    world.talk(110, 6)
    world.work(lambda spec: {"informative": False} if spec.stage == "fit-q" else {})
    assert world.says("Ready") == ("False", WAITS)
    record = world.live()
    assert (record.until, record.conversations, record.wanted_conversations) == (None, 110, 210)
    assert (record.outcomes, record.wanted_outcomes) == (6, 11)
    world.talk(100, 5)
    world.later()
    first, second = (intent.spec for intent in collects(world))
    assert (second.collection, "data" in second.inputs) == (2, True)
    assert first.until is not None
    assert second.until is not None
    assert first.until < second.until
    assert world.says("Reconciling")[1] == "CanaryRunning"


def test_after_a_refusal_the_next_iteration_waits_for_as_many_more() -> None:
    world = LiveCluster(make_live_run())
    world.until_canary()
    world.talk(60, 9)
    world.shop.outcome = "Reject"
    world.later()
    record = world.live()
    assert (status(world).iteration, record.until) == (2, None)
    assert (record.conversations, record.wanted_conversations) == (160, 200)
    world.talk(40, 0)
    world.later()
    assert len(collects(world)) == 2


def test_the_gateway_is_told_the_active_policy_from_the_warm_start_to_after_the_end() -> None:
    world = LiveCluster(make_live_run(iterations={"max": 1}))
    assert world.step().live is None
    world.go()
    world.talk(100, 5)
    world.until_canary()
    world.shop.outcome = "Reject"
    world.later()
    assert world.says("Succeeded") == ("True", "Completed")
    live = world.plan().live
    assert live is not None
    assert (live.active, live.canary) == (status(world).policy, None)
    assert world.plan().requeue_after is None


def test_a_run_without_live_conversations_tells_no_gateway() -> None:
    from tests.kit.planner_world import Cluster, make_run

    world = Cluster(make_run())
    world.drive()
    assert world.plan().live is None
    assert status(world).live is None
