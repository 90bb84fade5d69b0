"""What holds for every run: idempotent, terminal for ever, bounded, deterministic names, right in the end."""

import re
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.plan.names import job_name
from ippo_operator.plan.phase import phase
from ippo_operator.plan.types import JobFailure, JobIntent
from ippo_trainer.contract.spec import Decision

from tests.kit.planner_world import Cluster, Outcome, changed, good_result, make_run

FAILURES: list[Outcome] = [
    JobFailure(75, "not now"),
    JobFailure(1, "bug"),
    JobFailure(143, "stopped"),
    JobFailure(137),
    JobFailure(None, disrupted=True),
    None,
]
MOMENTS = ["end", "end", "end", "fail", "fail", "pass", "die-before", "die-between", "suspend", "wait"]
runs = st.builds(
    lambda limit, conversations: make_run(
        iterations={"max": limit},
        collect={"simulate": {"environment": {"name": "sr-funnel"}, "conversations": conversations}},
        retries={"disruptions": 1000, "tryAgain": 100, "crashes": 100},
    ),
    st.integers(1, 3),
    st.integers(2, 9),
)


def undisturbed(run: IterativePPORun) -> Cluster:
    world = Cluster(run)
    world.drive()
    return world


def is_idle_on_repetition(world: Cluster) -> None:
    """Planning again in an unchanged world brings no new job, no event, and the same status."""
    first = world.step()
    second = world.step()
    assert not second.creates or second.creates == first.creates
    third = world.plan()
    assert (third.creates, third.events) == ((), ())
    assert third.status == world.run.status


def act(world: Cluster, moment: str, failure: Outcome) -> None:
    """Something happens to the world."""
    running = world.running()
    if moment == "end" and running is not None:
        world.end(running, good_result(running.spec))
    elif moment == "fail" and running is not None:
        world.step()  # a job that is gone before anybody saw it was never made: its name is used again
        world.end(running, failure)
    elif moment == "die-before":
        world.step(die_after=0)
    elif moment == "die-between":
        world.step(die_after=1)
    elif moment == "suspend":
        world.run = changed(world.run, suspend=not world.run.spec.suspend)
    elif moment == "wait":
        world.now += timedelta(seconds=700)
    elif moment == "pass":
        is_idle_on_repetition(world)
    world.step()


@settings(max_examples=60)
@given(runs, st.lists(st.tuples(st.sampled_from(MOMENTS), st.sampled_from(FAILURES)), max_size=60))
def test_whatever_happens_a_run_ends_as_if_nothing_had_happened(
    run: IterativePPORun, moments: list[tuple[str, Outcome]]
) -> None:
    world = Cluster(run)
    for moment, failure in moments:
        act(world, moment, failure)
    if world.run.spec.suspend:
        world.run = changed(world.run, suspend=False)
    world.drive()
    assert world.reason("Ready") == "Completed"
    expected = undisturbed(run)
    assert world.run.status is not None
    assert expected.run.status is not None
    for name in ("policy", "start_policy", "previous_q", "best", "completed_iterations"):
        assert getattr(world.run.status, name) == getattr(expected.run.status, name)
    assert len(set(world.stages())) == len(world.stages()), "an attempt was made twice"
    done = {(spec.iteration, spec.stage): spec.input_digest() for spec in (i.spec for i in expected.created)}
    assert {(i.spec.iteration, i.spec.stage): i.spec.input_digest() for i in world.created} == done


@settings(max_examples=100)
@given(
    st.lists(st.sampled_from([None, *FAILURES, JobFailure(64), JobFailure(65), "good", "good", "Reject"]), max_size=80),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_every_run_comes_to_rest_within_its_budgets(
    script: list[Any], try_again: int, crashes: int, disruptions: int
) -> None:
    limits = {"tryAgain": try_again, "crashes": crashes, "disruptions": disruptions}
    world = Cluster(make_run(iterations={"max": 3}, retries=limits))
    left = list(script)

    def outcome(intent: JobIntent) -> Outcome:
        next_one = left.pop() if left else "good"
        if next_one == "Reject" and intent.spec.stage == "evaluate":
            return good_result(intent.spec, decision=Decision(outcome="Reject", reason="worse"))
        return good_result(intent.spec) if isinstance(next_one, str) else next_one

    world.drive(outcome)
    assert len(world.created) <= 13 * (1 + try_again + crashes + disruptions)
    assert world.run.status is not None
    stands = phase(world.run.spec, world.run.status, world.now)
    assert stands.ended
    assert world.run.status.is_true("Succeeded" if stands.name == "Succeeded" else "Stalled")
    assert not world.run.status.is_true("Reconciling")


@settings(max_examples=60)
@given(
    st.sampled_from([JobFailure(64), JobFailure(65), JobFailure(1), "good"]),
    st.lists(st.tuples(st.sampled_from(["lose", "later", "suspend", "resume"]), st.integers(0, 20)), max_size=9),
)
def test_terminal_is_for_ever(end: Any, happenings: list[tuple[str, int]]) -> None:
    world = Cluster(make_run(iterations={"max": 1}, retries={"crashes": 0}))
    world.drive(lambda i: good_result(i.spec) if end == "good" or i.spec.stage != "improve" else end)
    count = len(world.created)
    reason = world.reason("Ready" if end == "good" else "Stalled")
    for what, number in happenings:
        if what == "lose" and world.jobs:
            del world.jobs[sorted(world.jobs)[number % len(world.jobs)]]
        elif what in {"suspend", "resume"}:
            world.run = changed(world.run, suspend=what == "suspend")
        world.now += timedelta(hours=number)
        plan = world.step()
        assert (plan.creates, plan.deletes, plan.events) == ((), (), ())
    assert len(world.created) == count
    assert world.reason("Ready" if end == "good" else "Stalled") == reason


run_names = st.from_regex(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
STAGE_NAMES = ["warm-start", "collect", "fit-q", "improve", "evaluate"]
identities = st.tuples(
    run_names, st.uuids().map(str), st.integers(0, 9999), st.sampled_from(STAGE_NAMES), st.integers(1, 9999)
)


@settings(max_examples=500)
@given(identities, identities)
def test_names_are_labels_deterministic_and_distinct(one: Any, other: Any) -> None:
    name = job_name(*one)
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name)
    assert job_name(*one) == name
    assert (job_name(*other) == name) == (one == other)
