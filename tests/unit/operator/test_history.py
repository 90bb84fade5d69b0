"""A log in place of the simulator: what the planner asks of the stages, and what it asks of a human."""

from typing import Any

import pytest
from ippo_operator.api.problems import ManifestError
from ippo_operator.plan.phase import phase
from ippo_trainer.contract.spec import Decision, StageSpec

from tests.kit.planner_world import Cluster, changed, good_result, make_run

LOG: dict[str, Any] = {"conversations": "file:///log.jsonl", "writers": ["people"]}
SIMULATE: dict[str, Any] = {"environment": {"name": "sr-funnel"}, "conversations": 100, "parallelism": 2}
ONLY: dict[str, Any] = {
    "iterations": {"max": 1},
    "warmStart": {"conversations": "file:///log.jsonl"},
    "collect": {"history": LOG},
}


def reason_of(world: Cluster, kind: str) -> str:
    assert world.run.status is not None
    condition = world.run.status.condition(kind)  # type: ignore[arg-type]
    assert condition is not None
    return str(condition.reason)


def specs(world: Cluster) -> dict[tuple[int, str], StageSpec]:
    return {(intent.spec.iteration, intent.spec.stage): intent.spec for intent in world.created}


def test_a_run_of_a_log_alone_waits_for_a_human_with_its_evidence() -> None:
    world = Cluster(make_run(**ONLY))
    world.drive()
    status = world.run.status
    assert status is not None
    assert list(specs(world)) == [
        (0, "warm-start"),
        (1, "collect"),
        (1, "fit-q"),
        (1, "improve"),
        (1, "evaluate"),
    ]
    stands = phase(world.run.spec, status, world.now)
    assert stands.reason == "AwaitingApproval"
    assert "spec.promotion.approve: 1 or reject: 1" in stands.message
    assert "The gate: better" in stands.message
    world.run = changed(world.run, promotion={"approve": 1})
    world.drive()
    assert (world.reason("Succeeded"), world.reason("Promoted")) == ("Completed", "Promoted")
    assert world.run.status is not None
    assert world.run.status.policy is not None
    assert world.run.status.policy.iteration == 1


def test_rejected_the_first_policy_stays() -> None:
    world = Cluster(make_run(**ONLY))
    world.drive()
    world.run = changed(world.run, promotion={"reject": 1})
    world.drive()
    assert world.reason("Succeeded") == "Completed"
    assert reason_of(world, "Promoted") == "NotApproved"
    assert world.run.status is not None
    assert world.run.status.policy is not None
    assert world.run.status.policy.iteration == 0


def test_what_speaks_against_it_asks_nobody() -> None:
    world = Cluster(make_run(**ONLY))
    world.drive(lambda intent: good_result(intent.spec, **_worse(intent.spec)))
    assert world.reason("Succeeded") == "Completed"
    assert reason_of(world, "Promoted") == "GateFailed"


def _worse(spec: StageSpec) -> dict[str, Any]:
    return {"decision": Decision(outcome="Reject", reason="worse")} if spec.stage == "evaluate" else {}


def test_every_stage_knows_the_log_and_none_a_simulator() -> None:
    world = Cluster(make_run(**ONLY))
    world.drive()
    specs_of_stages = specs(world)
    fit_q = specs_of_stages[1, "fit-q"].history
    assert fit_q is not None
    assert fit_q.writers == ("people",)
    for (iteration, stage), spec in specs_of_stages.items():
        assert spec.environment is None
        assert (spec.history is not None) == (iteration == 1), stage
        assert spec.collect is None
    assert {intent.shards for intent in world.created} == {None}
    assert {"policy", "candidate", "data", "q"} == set(specs_of_stages[1, "evaluate"].inputs)


def test_a_log_first_and_a_simulator_from_then_on() -> None:
    world = Cluster(make_run(iterations={"max": 2}, collect={"history": LOG, "simulate": SIMULATE}))
    world.drive()
    specs_of_stages = specs(world)
    assert world.reason("Succeeded") == "Completed"
    assert {key for key, spec in specs_of_stages.items() if spec.history is not None} == {
        (1, stage) for stage in ("collect", "fit-q", "improve", "evaluate")
    }
    assert {key for key, spec in specs_of_stages.items() if spec.environment is None} == {(1, "collect")}
    shards = {(intent.spec.iteration, intent.spec.stage): intent.shards for intent in world.created}
    assert (shards[1, "collect"], shards[2, "collect"]) == (None, 2)
    assert (
        set(specs_of_stages[1, "evaluate"].inputs)
        == set(specs_of_stages[2, "evaluate"].inputs)
        == {"policy", "candidate"}
    )


def test_runs_without_a_log_have_the_inputs_that_they_had() -> None:
    world = Cluster(make_run())
    world.drive()
    for spec in specs(world).values():
        assert "history" not in spec.model_dump(by_alias=True, exclude_none=True)


def _dull(spec: StageSpec) -> dict[str, Any]:
    return {"informative": False} if spec.stage == "fit-q" else {}


def test_a_log_has_no_more_conversations_to_collect() -> None:
    world = Cluster(make_run(**ONLY, fitQ={"onUninformative": "CollectMore"}))
    world.drive(lambda intent: good_result(intent.spec, **_dull(intent.spec)))
    assert world.reason("Stalled") == "QUninformative"
    assert len([1 for intent in world.created if intent.spec.stage == "collect"]) == 1


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"collect": {}}, "spec.collect.simulate: is missing; collect takes conversations from simulate"),
        ({"iterations": {"max": 2}}, "spec.iterations: given max: 2, allowed is 1 without collect.simulate"),
        ({"warmStart": {"demonstrations": 10}}, "spec.warmStart: .*demonstrations are a simulator's"),
        ({"evaluate": {"gate": {"minAcceptance": "0.5"}}}, "spec.evaluate: .*minAcceptance needs collect.simulate"),
        (
            {"collect": {"history": {**LOG, "window": "7d"}}},
            "spec.collect.history.window: .*allowed with outcomes only",
        ),
        ({"collect": {"history": {**LOG, "window": "soon"}}}, 'spec.collect.history.window: .*such as "14d"'),
        ({"collect": {"history": {**LOG, "conversations": "hf://a/b"}}}, "history.conversations: .*no stage can read"),
        ({"collect": {"history": {"outcomes": "file:///o"}}}, "spec.collect.history.conversations: .*required|missing"),
    ],
)
def test_what_is_refused_names_the_field(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        make_run(**(ONLY | spec))
