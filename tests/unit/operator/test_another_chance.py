"""A stage that stalled is tried once more when somebody changed spec.pods for it, or asks for it."""

import pytest
from ippo_operator.plan.types import JobFailure

from tests.kit.planner_world import Cluster, changed, failing, good_result, make_run, status, until

NONE = {"crashes": 0, "tryAgain": 0, "disruptions": 0}
STORE = {"bucket": "abc", "endpointUrl": "http://old:9000"}


@pytest.mark.parametrize("failure", [JobFailure(64), JobFailure(65), JobFailure(75), JobFailure(1), JobFailure(143)])
@pytest.mark.parametrize(
    "change",
    [
        {"retries": NONE | {"requested": 1}},
        {"pods": {"fitQ": {"resources": {"limits": {"memory": "64Gi"}}}}, "retries": NONE},
        {"pods": {"common": {"image": "mended"}}, "retries": NONE},
        {"artifacts": {"s3": STORE | {"endpointUrl": "http://new:9000"}}, "retries": NONE},
        {"artifacts": {"s3": STORE | {"region": "eu-central-1"}}, "retries": NONE},
        {"artifacts": {"s3": STORE | {"credentialsSecretName": "new"}}, "retries": NONE},
    ],
    ids=["asked for", "the stage's pods", "all pods", "endpoint", "region", "credentials"],
)
def test_a_stage_that_stalled_is_tried_once_more_whenever_somebody_mends_or_asks(
    failure: JobFailure, change: dict[str, object]
) -> None:
    world = Cluster(make_run(retries=NONE, iterations={"max": 1}, artifacts={"s3": STORE}))
    world.drive(failing("fit-q", failure, 2))
    assert world.stages()[-1] == (1, "fit-q", 1)
    assert world.plan().status.is_true("Stalled")
    world.run = changed(world.run, pods={"evaluate": {"image": "another"}}, retries=NONE)
    world.drive()
    assert world.stages()[-1] == (1, "fit-q", 1), "another stage's pods do not matter"
    world.run = changed(world.run, **change)
    plan = world.step()
    assert not plan.status.is_true("Stalled")
    assert [(i.spec.stage, i.spec.attempt) for i in plan.creates] == [("fit-q", 2)], "at once, without a back-off"
    world.drive(failing("fit-q", failure, 2))
    assert world.stages()[-1] == (1, "fit-q", 2), "one change, one attempt"
    assert world.plan().status.is_true("Stalled")
    world.run = changed(world.run, **change | {"retries": NONE | {"requested": 2}})
    world.drive()
    assert world.reason("Ready") == "Completed"


def test_what_changes_while_an_attempt_runs_counts_once_it_failed() -> None:
    """It was made from what the spec said when it began."""
    world = Cluster(make_run(retries=NONE, iterations={"max": 1}))
    running = until(world, 1, "fit-q")
    world.run = changed(world.run, pods={"fitQ": {"image": "mended"}}, retries=NONE)
    world.step()
    world.end(running, JobFailure(1))
    world.drive()
    assert world.reason("Ready") == "Completed"
    assert world.stages().count((1, "fit-q", 2)) == 1


def test_a_q_that_tells_nothing_is_never_optimised_whoever_asks() -> None:
    world = Cluster(make_run(iterations={"max": 1}))
    world.drive(lambda i: good_result(i.spec, **({"informative": False} if i.spec.stage == "fit-q" else {})))
    assert world.reason("Stalled") == "QUninformative"
    stalled = status(world)
    world.run = changed(world.run, retries={"requested": 1}, pods={"common": {"image": "another"}})
    world.drive()
    assert world.reason("Stalled") == "QUninformative"
    assert world.plan().creates == ()
    assert status(world).attempt == stalled.attempt


def test_a_failure_that_an_older_operator_recorded_stays_final() -> None:
    world = Cluster(make_run())
    world.drive(failing("collect", JobFailure(65), 1))
    failure = status(world).last_failure
    assert failure is not None
    older = status(world).model_copy(update={"last_failure": failure.model_copy(update={"retry_digest": None})})
    world.run = changed(world.run.model_copy(update={"status": older}), pods={"common": {"image": "mended"}})
    assert world.plan().creates == ()
