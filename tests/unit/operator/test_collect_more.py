"""After a Q that tells nothing the run collects more into the same data, where the spec says so, and goes on."""

import random
from typing import Any

import pytest
from ippo_operator.api.changes import problems
from ippo_operator.api.load import parse_run
from ippo_operator.plan.types import JobFailure, JobIntent
from ippo_trainer.contract import params

from tests.kit.planner_world import Cluster, changed, good_result, make_run, reread, status

MORE = {"onUninformative": "CollectMore"}


def uninformative(times: int) -> Any:
    """Outcomes: the first fits of every iteration tell nothing, all else goes well."""

    def outcome(intent: JobIntent) -> Any:
        if intent.spec.stage == "fit-q" and (intent.spec.collection or 1) <= times:
            return good_result(intent.spec, informative=False, message="Skill is .00 (-.01 to .01).")
        return good_result(intent.spec)

    return outcome


def collections(world: Cluster) -> list[tuple[str, int, int | None]]:
    return [(i.spec.stage, i.spec.attempt, i.spec.collection) for i in world.created if i.spec.iteration == 1]


def test_it_collects_more_into_the_same_data_and_goes_on() -> None:
    world = Cluster(make_run(iterations={"max": 2}, fitQ=MORE))
    world.drive(uninformative(2))
    assert world.reason("Ready") == "Completed"
    assert collections(world) == [
        ("collect", 1, None),
        ("fit-q", 1, None),
        ("collect", 2, 2),
        ("fit-q", 2, 2),
        ("collect", 3, 3),
        ("fit-q", 3, 3),
        ("improve", 1, None),
        ("evaluate", 1, None),
    ]
    specs = {(i.spec.stage, i.spec.collection): i.spec for i in world.created if i.spec.iteration == 1}
    assert "data" not in specs["collect", None].inputs
    for number in (2, 3):
        before = good_result(specs["collect", number - 1 if number > 2 else None]).artifacts["data"]
        assert specs["collect", number].inputs["data"] == before
        assert specs["collect", number].inputs["policy"] == specs["collect", None].inputs["policy"]
    assert specs["improve", None].inputs["data"] == good_result(specs["collect", 3]).artifacts["data"]
    assert specs["improve", None].inputs["q"] == good_result(specs["fit-q", 3]).artifacts["q"]
    row = next(row for row in status(world).iterations if row.iteration == 1)
    assert [done.stage for done in row.stages] == ["collect", "fit-q", "improve", "evaluate"]
    assert row.collections == 3
    assert world.events.count("QUninformative") == 4
    names = [intent.name for intent in world.created]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("limit", "made"), [(None, 3), (2, 2), (5, 5)])
def test_it_is_bounded(limit: int | None, made: int) -> None:
    world = Cluster(make_run(fitQ=MORE | ({"maxCollections": limit} if limit else {})))
    world.drive(uninformative(99))
    assert [stage for stage, _, _ in collections(world)].count("collect") == made
    assert world.reason("Stalled") == "QUninformative"
    condition = status(world).condition("Stalled")
    assert condition is not None
    assert condition.message.startswith("Skill is .00 (-.01 to .01). ")
    assert "maxCollections" in condition.message


def test_a_run_that_stalled_goes_on_when_the_spec_says_so() -> None:
    world = Cluster(make_run(iterations={"max": 1}))
    world.drive(uninformative(1))
    assert world.reason("Stalled") == "QUninformative"
    before = world.run.spec
    world.run = changed(world.run, fitQ=MORE)
    assert problems(before, world.run.spec) == []
    plan = world.step()
    assert [(i.spec.stage, i.spec.collection) for i in plan.creates] == [("collect", 2)], "at once"
    assert not plan.status.is_true("Stalled")
    world.drive(uninformative(1))
    assert world.reason("Ready") == "Completed"


def test_no_digest_depends_on_the_setting() -> None:
    digests = []
    for fit_q in ({}, MORE | {"maxCollections": 4}):
        world = Cluster(make_run(iterations={"max": 2}, fitQ=fit_q))
        world.drive()
        digests.append([intent.spec.input_digest() for intent in world.created])
    assert digests[0] == digests[1]
    assert set(params.FitQ.model_fields).isdisjoint({"on_uninformative", "max_collections"})


def test_the_previous_q_is_never_one_that_tells_nothing() -> None:
    world = Cluster(make_run(iterations={"max": 2}, fitQ=MORE | {"initFrom": "PreviousQ"}))
    world.drive(uninformative(1))
    fits = [i.spec for i in world.created if i.spec.stage == "fit-q"]
    assert [("previousQ" in spec.inputs) for spec in fits] == [False, False, True, True]
    assert {spec.inputs["previousQ"] for spec in fits[2:]} == {good_result(fits[1]).artifacts["q"]}


@pytest.fixture(scope="module")
def calm() -> Cluster:
    """A run in which nothing goes wrong."""
    world = Cluster(make_run(iterations={"max": 2}, fitQ=MORE))
    world.drive(uninformative(2))
    return world


@pytest.mark.parametrize("seed", range(25))
def test_crashes_failures_and_deaths_change_nothing(calm: Cluster, seed: int) -> None:
    """The operator dies between any two of its writes; stages are lost and fail; the artifacts are the same."""
    chance = random.Random(seed)
    world = Cluster(make_run(iterations={"max": 2}, fitQ=MORE, retries={"crashes": 50, "tryAgain": 50}))
    good = uninformative(2)
    for _ in range(400):
        if world.run.status is not None and world.ready():
            break
        world.step(die_after=chance.randint(0, 4))
        world.run = world.run.model_copy(update={"status": reread(status(world))} if world.run.status else {})
        running = world.running()
        if running is not None and chance.random() < 0.5:
            failure = chance.choice([JobFailure(75), JobFailure(1), JobFailure(143), None])
            world.step()
            world.end(running, failure if chance.random() < 0.3 else good(running))
        world.now = world.now.replace(hour=(world.now.hour + 1) % 24) if world.now.hour < 23 else world.now
    world.drive(good)
    assert world.reason("Ready") == "Completed"
    assert {i.spec.input_digest() for i in world.created} == {i.spec.input_digest() for i in calm.created}
    rows = [[(done.stage, done.artifact) for done in row.stages] for row in status(world).iterations]
    assert rows == [[(done.stage, done.artifact) for done in row.stages] for row in status(calm).iterations]


def test_a_run_of_the_release_before_reads_the_same() -> None:
    run = make_run()
    stored = run.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert "onUninformative" not in stored["spec"]["fitQ"]
    assert parse_run(stored).spec == run.spec
