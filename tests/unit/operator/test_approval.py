"""Promotion by hand."""

from typing import Any

import pytest
from ippo_operator.api.status import Condition, RunStatus
from ippo_operator.plan.phase import phase
from ippo_trainer.contract.spec import Decision

from tests.kit.planner_world import Cluster, changed, good_result, make_run


def waiting(**spec: Any) -> Cluster:
    """A run of two iterations whose first candidate waits for a human."""
    world = Cluster(make_run(iterations={"max": 2}, promotion={"mode": "Manual"}, **spec))
    world.drive()
    return world


def status(world: Cluster) -> RunStatus:
    assert world.run.status is not None
    return world.run.status


def condition(world: Cluster, kind: str) -> Condition:
    [found] = [c for c in status(world).conditions if c.type == kind]
    return found


def answer(world: Cluster, **fields: Any) -> None:
    world.run = changed(world.run, promotion={"mode": "Manual", **fields})
    world.drive()


def test_a_candidate_that_passed_waits_and_the_run_says_for_what() -> None:
    world = waiting()
    promoted = condition(world, "Promoted")
    assert (promoted.status, promoted.reason) == ("Unknown", "AwaitingApproval")
    assert "spec.promotion.approve: 1 or reject: 1" in promoted.message
    assert (condition(world, "Ready").status, condition(world, "Ready").reason) == ("False", "AwaitingApproval")
    assert status(world).progress == "0/2"
    assert status(world).policy == status(world).policy.model_copy(update={"iteration": 0})  # type: ignore[union-attr]
    assert phase(world.run.spec, status(world), world.now).at_rest
    assert world.events.count("AwaitingApproval") == 1


def test_approved_it_is_promoted_and_the_next_one_waits() -> None:
    world = waiting()
    answer(world, approve=1)
    first, second = status(world).iterations[-2:]
    assert (first.promoted, second.promoted) == (True, None)
    assert first.policy == first.artifact("improve").digest  # type: ignore[union-attr]
    assert status(world).progress == "1/2"
    answer(world, approve=2)
    assert world.reason("Succeeded") == "Completed"
    assert world.reason("Promoted") == "Promoted"
    assert status(world).best is not None
    assert world.events.count("Promoted") == 2
    assert len(world.stages()) == 1 + 2 * 4


def test_rejected_the_policy_before_it_stays() -> None:
    world = waiting()
    answer(world, reject=1)
    first = status(world).iterations[-2]
    assert (first.promoted, status(world).consecutive_rejections) == (False, 1)
    answer(world, reject=2)
    assert (condition(world, "Promoted").status, condition(world, "Promoted").reason) == ("False", "NotApproved")
    assert (status(world).policy.iteration, status(world).best) == (0, None)  # type: ignore[union-attr]


def test_an_answer_for_another_iteration_counts_only_there() -> None:
    world = waiting()
    answer(world, approve=2)
    assert status(world).progress == "0/2"
    answer(world, approve=2, reject=1)
    assert [row.promoted for row in status(world).iterations] == [None, False, True]


def test_a_suspended_run_takes_the_answer_when_it_goes_on() -> None:
    world = waiting()
    world.run = changed(world.run, suspend=True, promotion={"mode": "Manual", "approve": 1})
    world.drive()
    assert world.reason("Suspended") == "Suspended"
    assert status(world).progress == "0/2"
    world.run = changed(world.run, suspend=False)
    world.drive()
    assert status(world).progress == "1/2"


@pytest.mark.parametrize("outcome", ["Reject", "Inconclusive"])
def test_what_the_gate_refused_needs_no_human(outcome: Any) -> None:
    world = Cluster(make_run(iterations={"max": 1}, promotion={"mode": "Manual"}))
    decision = Decision(outcome=outcome, reason="not better")
    world.drive(
        lambda intent: good_result(intent.spec, **({"decision": decision} if intent.spec.stage == "evaluate" else {}))
    )
    assert world.reason("Succeeded") == "Completed"
    assert condition(world, "Promoted").reason in {"GateFailed", "GateInconclusive"}
