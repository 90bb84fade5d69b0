"""The planner, one situation at a time."""

import dataclasses
import re
from datetime import timedelta
from typing import Any

import pytest
from ippo_operator.api.status import MAX_ITERATION_WARNINGS
from ippo_operator.plan.types import JobFailure, JobIntent, ObservedJob
from ippo_trainer.contract.digests import digest_of
from ippo_trainer.contract.spec import Decision
from ippo_trainer.contract.stages import EARLIER_DATA

from tests.kit.planner_world import Cluster, Outcome, changed, failing, good_result, make_run, status, until

ONE_ROUND = [(1, "collect", 1), (1, "fit-q", 1), (1, "improve", 1), (1, "evaluate", 1)]


def test_a_run_goes_through_all_stages_in_order() -> None:
    world = Cluster(make_run(iterations={"max": 2}))
    world.drive()
    assert world.stages() == [(0, "warm-start", 1), *ONE_ROUND, *((2, stage, a) for _, stage, a in ONE_ROUND)]
    assert world.reason("Ready") == world.reason("Succeeded") == "Completed"
    assert status(world).progress == "2/2"
    assert [row.promoted for row in status(world).iterations] == [None, True, True]


def test_inputs_are_what_earlier_stages_recorded() -> None:
    world = Cluster(make_run(fitQ={"initFrom": "PreviousQ"}, iterations={"max": 2}))
    world.drive()
    made = {(i.spec.iteration, i.spec.stage): good_result(i.spec).artifacts for i in world.created}
    start = made[0, "warm-start"]["policy"]
    first, second = made[1, "improve"]["policy"], made[2, "improve"]["policy"]
    inputs = {(i.spec.iteration, i.spec.stage): i.spec.inputs for i in world.created}
    assert inputs[0, "warm-start"] == {}
    assert inputs[1, "collect"] == {"policy": start, "explorer": start}
    assert inputs[1, "fit-q"] == {"policy": start, "data": made[1, "collect"]["data"]}
    assert inputs[2, "collect"] == {"policy": first, "explorer": start}
    assert inputs[2, "fit-q"] == {
        "policy": first,
        "data": made[2, "collect"]["data"],
        "previousQ": made[1, "fit-q"]["q"],
        "earlierData1": made[1, "collect"]["data"],
    }
    assert inputs[2, "improve"] == {
        "policy": first,
        "data": made[2, "collect"]["data"],
        "q": made[2, "fit-q"]["q"],
        "explorer": start,
    }
    assert inputs[2, "evaluate"] == {"policy": first, "candidate": second}


@pytest.mark.parametrize(
    ("fit_q", "expected"),
    [
        ({}, [3, 2, 1]),
        ({"earlierIterations": 2}, [3, 2]),
        ({"earlierIterations": 0}, []),
        ({"lastLayer": "Gradient"}, []),
    ],
)
def test_fit_q_reads_what_the_iterations_before_collected(fit_q: dict[str, Any], expected: list[int]) -> None:
    world = Cluster(make_run(fitQ=fit_q, iterations={"max": 4}))
    world.drive()
    collected = {
        i.spec.iteration: good_result(i.spec).artifacts.get("data") for i in world.created if i.spec.stage == "collect"
    }
    fit = next(i.spec for i in world.created if (i.spec.iteration, i.spec.stage) == (4, "fit-q"))
    earlier = [fit.inputs[name] for name in EARLIER_DATA if name in fit.inputs]
    assert earlier == [collected[iteration] for iteration in expected]


def test_each_stage_gets_its_own_section_and_seed() -> None:
    world = Cluster(make_run(seed=11, threads=4, iterations={"max": 1}))
    world.drive()
    for intent in world.created:
        spec = intent.spec
        assert spec.seed == 11  # stages derive their own streams from it, by stage and iteration
        sections = {name for name in ("warm_start", "collect", "fit_q", "improve", "evaluate") if getattr(spec, name)}
        sampling = {"collect"} if spec.stage in {"improve", "evaluate"} else set()
        assert sections == {spec.stage.replace("-", "_")} | sampling
        assert intent.shards == (2 if spec.stage == "collect" else None)
        assert spec.threads == (2 if spec.stage == "collect" else 4)


def test_the_intent_is_in_the_status_before_the_job_is() -> None:
    world = Cluster(make_run())
    plan = world.plan()
    assert plan.status.active is not None
    assert plan.status.active.job_name == plan.creates[0].name
    assert not plan.status.active.observed
    # the status was written, then the adapter died before it created the job
    world.run = world.run.model_copy(update={"status": plan.status})
    again = world.plan()
    assert again.creates == plan.creates
    assert again.status == plan.status
    assert again.events == ()


def test_a_deleted_job_is_not_an_absent_job() -> None:
    world = Cluster(make_run())
    running = until(world, 1, "collect")
    world.end(running, None)
    world.step()
    assert world.stages()[-1] == (1, "collect", 2)
    assert status(world).budgets.disruptions == 1
    # completed stages stay completed, whatever becomes of their jobs
    world.drive()
    assert [stage for stage in world.stages() if stage[0] == 0] == [(0, "warm-start", 1)]


def test_jobs_that_vanish_after_they_were_recorded_change_nothing() -> None:
    world = Cluster(make_run())
    world.drive()
    done = status(world)
    world.jobs.clear()
    plan = world.step()
    assert (plan.creates, plan.deletes, plan.events) == ((), (), ())
    assert plan.status == done


@pytest.mark.parametrize(("code", "reason"), [(64, "InvalidSpec"), (65, "InvalidData")])
def test_a_wrong_spec_or_wrong_data_is_not_tried_again_by_itself(code: int, reason: str) -> None:
    world = Cluster(make_run())
    world.drive(failing("fit-q", JobFailure(code, "the log has no positive outcome"), 1))
    assert world.stages()[-1] == (1, "fit-q", 1)
    assert world.reason("Stalled") == reason
    stalled = status(world).condition("Stalled")
    assert stalled is not None
    told = "iteration 1 fit-q: the log has no positive outcome"
    assert (
        stalled.message
        == f"{told}. Tried again once spec.retries.requested, spec.pods or the address in spec.artifacts.s3 changes."
    )
    assert world.events.count(reason) == 1
    failure = status(world).last_failure
    assert failure is not None
    assert (failure.exit_code, failure.kind, failure.stage) == (code, {64: "Spec", 65: "Data"}[code], "fit-q")
    world.run = changed(world.run, retries={"crashes": 50, "tryAgain": 50})
    world.drive()
    assert world.stages()[-1] == (1, "fit-q", 1)


@pytest.mark.parametrize(
    ("failure", "field"),
    [
        (JobFailure(75, "S3 is down"), "tryAgain"),
        (JobFailure(1, "KeyError"), "crashes"),
        (JobFailure(137), "crashes"),
        (JobFailure(143), "disruptions"),
        (JobFailure(None, disrupted=True), "disruptions"),
        (JobFailure(1, disrupted=True), "disruptions"),
        (None, "disruptions"),
    ],
)
def test_each_kind_of_failure_spends_its_own_budget(failure: Outcome, field: str) -> None:
    limit = {"tryAgain": 2, "crashes": 1, "disruptions": 3}
    world = Cluster(make_run(retries=limit, iterations={"max": 1}))
    world.drive(failing("improve", failure, limit[field]))
    assert world.reason("Ready") == "Completed"
    assert world.stages().count((1, "improve", limit[field] + 1)) == 1

    world = Cluster(make_run(retries=limit, iterations={"max": 1}))
    world.drive(failing("improve", failure, 99))
    assert world.reason("Stalled") == "BudgetExhausted"
    assert world.stages()[-1] == (1, "improve", limit[field] + 1)
    stalled = status(world).condition("Stalled")
    assert stalled is not None
    assert f"spec.retries.{field} is {limit[field]}; raise it to go on" in stalled.message


def test_budgets_are_per_stage() -> None:
    world = Cluster(make_run(retries={"crashes": 1}, iterations={"max": 3}))
    world.drive(lambda i: JobFailure(1) if i.spec.attempt == 1 else good_result(i.spec))
    assert world.reason("Ready") == "Completed"
    assert len(world.created) == 2 * 13


def test_a_raised_budget_heals_a_stalled_run() -> None:
    world = Cluster(make_run(retries={"tryAgain": 0}))
    world.drive(failing("collect", JobFailure(75, "the disk is full"), 1))
    assert world.reason("Stalled") == "BudgetExhausted"
    world.run = changed(world.run, retries={"tryAgain": 1})
    world.drive()
    assert world.reason("Ready") == "Completed"


@pytest.mark.parametrize(
    ("first", "expected"), [(100, [100, 200, 400, 600, 600]), (3600, [3600] * 5)], ids=["short", "longest"]
)
def test_repetitions_wait_longer_and_longer(first: int, expected: list[float]) -> None:
    """Never shorter than what the spec asks for, the longest that the schema takes included."""
    world = Cluster(make_run(retries={"tryAgain": 9, "backoffSeconds": first}))
    waits = []
    for _ in range(5):
        running = world.running() or (world.step() and world.running())
        assert running is not None
        world.end(running, JobFailure(75))
        plan = world.step()
        assert plan.creates == ()
        assert plan.status.is_true("Reconciling")
        assert plan.requeue_after is not None
        waits.append(plan.requeue_after)
        world.now += timedelta(seconds=plan.requeue_after - 1)
        assert world.step().creates == ()
        world.now += timedelta(seconds=1)
        world.step()
    assert waits == expected


def test_disruptions_that_do_not_end_are_spread_out() -> None:
    world = Cluster(make_run(retries={"disruptions": 9, "backoffSeconds": 100}))
    waits = []
    for _ in range(6):
        running = world.running() or (world.step() and world.running())
        assert running is not None
        world.end(running, JobFailure(143))
        plan = world.step()
        waits.append(plan.requeue_after)
        world.now += timedelta(seconds=plan.requeue_after or 0)
        if not plan.creates:
            world.step()
    assert waits == [None, None, None, 100, 200, 400]


def test_suspend_stops_the_stage_and_resume_takes_a_new_attempt() -> None:
    world = Cluster(make_run())
    running = until(world, 1, "improve")
    world.run = changed(world.run, suspend=True)
    plan = world.step()
    assert plan.deletes == (running.name,)
    assert plan.creates == ()
    assert not plan.status.is_true("Suspended")
    plan = world.step()
    assert plan.status.is_true("Suspended")
    assert plan.creates == ()
    assert (plan.status.budgets.disruptions, plan.status.active) == (0, None)
    world.run = changed(world.run, suspend=False)
    plan = world.step()
    assert [intent.spec.attempt for intent in plan.creates] == [2]
    assert "Resumed" in [event.reason for event in plan.events]
    world.drive()
    assert world.reason("Ready") == "Completed"


def test_suspend_that_is_withdrawn_early_still_waits_for_the_stop() -> None:
    world = Cluster(make_run())
    running = until(world, 1, "improve")
    job = world.jobs[running.name]
    world.run = changed(world.run, suspend=True)
    world.step()
    world.jobs[running.name] = job  # it takes its time to end
    world.run = changed(world.run, suspend=False)
    plan = world.plan()
    assert plan.deletes == (running.name,)
    assert plan.creates == ()
    world.end(running, JobFailure(143))
    assert [intent.spec.attempt for intent in world.step().creates] == [2]


def test_a_stage_that_ends_well_while_it_is_told_to_stop_counts() -> None:
    world = Cluster(make_run())
    running = until(world, 1, "improve")
    job = world.jobs[running.name]
    world.run = changed(world.run, suspend=True)
    world.step()
    world.jobs[running.name] = job
    world.end(running, good_result(running.spec))
    plan = world.step()
    assert plan.status.stage == "evaluate"
    assert plan.status.is_true("Suspended")
    assert plan.creates == ()


def test_a_run_that_begins_suspended_creates_nothing() -> None:
    world = Cluster(make_run(suspend=True))
    world.drive()
    assert world.created == []
    assert world.reason("Suspended") == "Suspended"


def test_conditions_are_there_from_the_first_pass() -> None:
    plan = Cluster(make_run()).plan()
    assert [c.type for c in plan.status.conditions] == [
        "Accepted",
        "Reconciling",
        "Stalled",
        "Suspended",
        "Queued",
        "Succeeded",
        "Promoted",
        "Ready",
    ]
    truth = {c.type: c.status for c in plan.status.conditions}
    assert truth == {
        "Accepted": "True",
        "Reconciling": "True",
        "Stalled": "False",
        "Suspended": "False",
        "Queued": "False",
        "Succeeded": "Unknown",
        "Promoted": "Unknown",
        "Ready": "False",
    }
    assert plan.status.observed_generation == 1


def test_a_condition_keeps_its_transition_time_until_it_turns() -> None:
    world = Cluster(make_run(iterations={"max": 1}))
    world.step()
    began = world.now
    world.drive()
    times = {c.type: c.last_transition_time for c in status(world).conditions}
    assert times["Accepted"] == began
    assert times["Ready"] > began


def test_more_iterations_later() -> None:
    world = Cluster(make_run(iterations={"max": 1}))
    world.drive()
    world.run = changed(world.run, iterations={"max": 2})
    world.drive()
    assert world.stages()[-4:] == [(2, stage, 1) for _, stage, _ in ONE_ROUND]
    assert status(world).progress == "2/2"
    assert status(world).observed_generation == 2
    assert world.reason("Ready") == "Completed"


def decided(outcomes: dict[int, str]) -> Any:
    """Evaluations decide as given by iteration; all else goes well."""

    def outcome(intent: JobIntent) -> Outcome:
        if intent.spec.stage != "evaluate":
            return good_result(intent.spec)
        decision = Decision(outcome=outcomes[intent.spec.iteration], reason="because")  # type: ignore[arg-type]
        return good_result(intent.spec, decision=decision)

    return outcome


def test_a_candidate_that_is_not_promoted_leaves_the_policy_as_it_is() -> None:
    world = Cluster(make_run(iterations={"max": 4}))
    world.drive(decided({1: "Promote", 2: "Reject", 3: "Inconclusive", 4: "Promote"}))
    collecting = {i.spec.iteration: i.spec.inputs["policy"] for i in world.created if i.spec.stage == "collect"}
    assert collecting[2] == collecting[3] == collecting[4] != collecting[1]
    rows = [row for row in status(world).iterations if row.iteration]
    assert [row.promoted for row in rows] == [True, False, False, True]
    assert rows[1].policy == rows[0].policy == collecting[2].digest
    assert status(world).policy is not None
    assert status(world).policy.iteration == 4  # type: ignore[union-attr]
    assert world.events.count("GateFailed") == world.events.count("GateInconclusive") == 1


def test_the_best_policy_is_the_promoted_one_with_the_highest_figure() -> None:
    world = Cluster(make_run(iterations={"max": 3}))
    values = {1: 0.2, 2: 0.3, 3: 0.25}
    world.drive(
        lambda i: (
            good_result(i.spec, metrics={"value": values[i.spec.iteration]})
            if i.spec.stage == "evaluate"
            else good_result(i.spec)
        )
    )
    best = status(world).best
    assert best is not None
    assert (best.iteration, best.estimate, best.metric) == (2, 0.3, "Value")


def test_the_best_policys_figure_is_the_latest_of_it() -> None:
    """Promotion goes to the lucky: what the next iteration measures with other customers is what counts."""
    world = Cluster(make_run(iterations={"max": 3}))
    values = {1: (0.1, 0.40), 2: (0.25, 0.30), 3: (0.28, 0.2)}
    outcomes = {1: "Promote", 2: "Promote", 3: "Reject"}

    def result(spec: Any) -> Any:
        if spec.stage != "evaluate":
            return good_result(spec)
        current, candidate = values[spec.iteration]
        decision = Decision(outcome=outcomes[spec.iteration], reason="so")  # type: ignore[arg-type]
        return good_result(spec, metrics={"value": candidate, "valueCurrent": current}, decision=decision)

    world.drive(lambda i: result(i.spec))
    best = status(world).best
    assert best is not None
    assert (best.iteration, best.estimate) == (2, 0.28)


def test_stop_when_rejections_come_in_a_row() -> None:
    world = Cluster(make_run(iterations={"max": 9, "stopWhen": {"consecutiveRejections": 2}}))
    world.drive(decided({1: "Reject", 2: "Promote", 3: "Reject", 4: "Inconclusive"}))
    assert status(world).completed_iterations == 4
    assert world.reason("Ready") == "StopConditionMet"
    world.run = changed(world.run, iterations={"max": 20, "stopWhen": {"consecutiveRejections": 2}})
    world.drive()
    assert status(world).completed_iterations == 4


def test_stop_when_success_is_reached() -> None:
    world = Cluster(make_run(iterations={"max": 9, "stopWhen": {"successAtLeast": "0.3"}}))
    world.drive()  # success is .12 per iteration
    assert status(world).completed_iterations == 3
    assert world.reason("Ready") == "StopConditionMet"


def test_an_uninformative_q_ends_the_run_before_it_is_optimised() -> None:
    world = Cluster(make_run())
    world.drive(
        lambda i: (
            good_result(i.spec, informative=False, message="Skill is .00 (-.01 to .01). More data.")
            if i.spec.stage == "fit-q"
            else good_result(i.spec)
        )
    )
    assert world.stages()[-1] == (1, "fit-q", 1)
    assert world.reason("Stalled") == "QUninformative"
    stalled = status(world).condition("Stalled")
    assert stalled is not None
    assert stalled.message.startswith("Skill is .00 (-.01 to .01). More data. It collects more once spec.fitQ.")
    assert [done.stage for done in status(world).iterations[-1].stages] == ["collect", "fit-q"]
    world.run = changed(world.run, iterations={"max": 99}, retries={"crashes": 99})
    world.drive()
    assert world.stages()[-1] == (1, "fit-q", 1)


@pytest.mark.parametrize(
    "change",
    [
        {"input_digest": digest_of("forged")},
        {"iteration": 7},
        {"stage": "improve"},
        {"artifacts": {}},
        {"informative": None},
    ],
)
def test_a_result_of_something_else_moves_nothing(change: dict[str, Any]) -> None:
    world = Cluster(make_run(retries={"crashes": 1}))
    world.drive(lambda i: good_result(i.spec, **change) if i.spec.stage == "fit-q" else good_result(i.spec))
    assert world.stages()[-1] == (1, "fit-q", 2)
    failure = status(world).last_failure
    assert failure is not None
    assert failure.reason == "ResultUnreadable"
    assert world.reason("Stalled") == "BudgetExhausted"


def test_a_namesake_made_from_other_inputs_is_not_adopted() -> None:
    world = Cluster(make_run())
    plan = world.plan()
    name = plan.creates[0].name
    world.run = world.run.model_copy(update={"status": plan.status})
    world.jobs[name] = ObservedJob(name, digest_of("another"), "Succeeded", (good_result(plan.creates[0].spec),))
    world.drive()
    assert world.reason("Stalled") == "ChildConflict"
    assert world.created == []


def test_the_shard_that_joined_the_data_counts_and_the_others_do_not() -> None:
    world = Cluster(make_run())
    running = until(world, 1, "collect")
    parts = good_result(running.spec, artifacts={}), good_result(running.spec)
    world.jobs[running.name] = dataclasses.replace(world.jobs[running.name], state="Succeeded", results=parts)
    assert world.step().status.stage == "fit-q"


def test_history_is_bounded_and_the_rest_goes_on() -> None:
    world = Cluster(make_run(iterations={"max": 6}, historyLimit=2))
    world.drive()
    assert [row.iteration for row in status(world).iterations] == [5, 6]
    assert status(world).start_policy is not None
    assert status(world).completed_iterations == 6


def test_the_latest_answer_of_the_gate_outlives_the_history() -> None:
    world = Cluster(make_run(iterations={"max": 2}, historyLimit=1))
    world.drive(
        lambda intent: (
            JobFailure(65, "no positive outcome")
            if (intent.spec.iteration, intent.spec.stage) == (2, "fit-q")
            else good_result(intent.spec)
        )
    )
    assert [row.iteration for row in status(world).iterations] == [2]
    assert status(world).completed_iterations == 1
    assert world.reason("Promoted") == "Promoted"


def test_names_say_what_they_are() -> None:
    world = Cluster(make_run(iterations={"max": 1}))
    world.drive()
    for intent in world.created:
        spec = intent.spec
        assert re.fullmatch(f"small-i{spec.iteration}-{spec.stage}-a1-[0-9a-f]{{8}}", intent.name)


def test_a_spec_that_breaks_a_rule_is_not_accepted_and_heals() -> None:
    run = make_run()
    broken = run.spec.model_copy(update={"discount": "0"})
    world = Cluster(run.model_copy(update={"spec": broken}))
    world.drive()
    assert world.created == []
    assert world.reason("Stalled") == "InvalidSpec"
    assert status(world).condition("Accepted").status == "False"  # type: ignore[union-attr]
    world.run = world.run.model_copy(update={"spec": run.spec})
    world.drive()
    assert world.reason("Ready") == "Completed"


def test_fields_without_effect_are_told_once_and_hold_up_nothing() -> None:
    world = Cluster(make_run(iterations={"max": 2}, improve={"algorithm": "MPO", "clipRange": "0.1"}))
    world.drive()
    assert world.events.count("FieldsWithoutEffect") == 1
    assert world.reason("Ready") == "Completed"
    world = Cluster(make_run(iterations={"max": 1}))
    world.drive()
    assert "FieldsWithoutEffect" not in world.events


def warned(intent: JobIntent) -> Outcome:
    """Every stage warns of more than an iteration has room for."""
    return good_result(intent.spec, warnings=tuple(f"{intent.spec.stage} warns {n}" for n in range(6)))


def test_warnings_of_stages_reach_events_and_the_status_which_has_a_bound() -> None:
    world = Cluster(make_run(iterations={"max": 1}))
    world.drive(warned)
    start, first = status(world).iterations
    assert start.warnings == tuple(f"warm-start: warm-start warns {n}" for n in range(6))
    assert len(first.warnings) == MAX_ITERATION_WARNINGS
    assert first.warnings[0] == "collect: collect warns 0"
    assert world.events.count("StageWarning") == 5 * 6
    assert world.reason("Ready") == "Completed"
