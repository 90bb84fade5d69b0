"""The stage evaluate as the operator runs it."""

import json
from pathlib import Path
from typing import Any

import pytest
from ippo_trainer.contract import params
from ippo_trainer.contract.layout import LEDGER
from ippo_trainer.contract.spec import StageSpec
from ippo_trainer.data.turns import read_turns
from ippo_trainer.environments.rollout import rollout as real_rollout
from ippo_trainer.stages import evaluate
from ippo_trainer.stages.runtime import StopFlag
from ippo_trainer.store.artifact import fetch

CENSORING = """
from ippo_trainer.environments import Step

class Silent:
    max_turns = 2
    def reset(self, seeds):
        self.open = len(seeds)
        return ["hello"] * self.open
    def step(self, suggestions):
        return [Step("rejected", "bye", None, False, censored=True) for _ in suggestions]
"""


@pytest.fixture
def spec(small_world: Any) -> StageSpec:
    """Two untrained policies, an untrained Q and a few logged conversations."""
    policy = small_world.put_policy()
    inputs = {
        "policy": policy,
        "candidate": small_world.put_policy(1, "candidate"),
        "q": small_world.put_q(policy),
        "data": small_world.put_data(small_world.demonstrations(30)),
    }
    return small_world.spec("evaluate", inputs, evaluate=params.Evaluate(conversations=40))


def with_gate(spec: StageSpec, **gate: Any) -> StageSpec:
    section = params.Evaluate(conversations=40, gate=params.Gate(**gate))
    return spec.model_copy(update={"evaluate": section})


def test_it_publishes_figures_transcripts_and_turns_of_both_policies(small_world: Any, spec: StageSpec) -> None:
    result = small_world.result(spec)
    folder = small_world.folder / "fetched"
    manifest = fetch(small_world.store, result.artifacts["evaluation"], folder, "evaluation")
    assert set(manifest.inputs) == {"policy", "candidate", "q", "data"}
    metrics = json.loads((folder / "metrics.json").read_text())
    for role, name in (("candidate", "candidate"), ("current", "policy")):
        figures = metrics[role]
        assert figures["digest"] == spec.inputs[name].digest
        assert figures["conversations"] == 40
        assert figures["success"]["low"] <= figures["success"]["estimate"] <= figures["success"]["high"]
        assert figures["acceptance"]["estimate"] + figures["rejected"] == pytest.approx(1)
        assert figures["exact"]["shareOfOptimum"] == pytest.approx(
            figures["exact"]["value"] / figures["exact"]["optimum"]
        )
    assert metrics["candidate"]["kl"]["estimate"] > 0
    assert metrics["current"]["kl"] is None
    assert metrics["lift"]["low"] < metrics["lift"]["high"]
    assert metrics["references"][0]["value"] == pytest.approx(metrics["candidate"]["exact"]["optimum"])
    assert metrics["decision"]["outcome"] == result.decision.outcome
    spoken = json.loads((folder / "transcripts.json").read_text())
    assert [row["seed"] for row in spoken["candidate"]] == [row["seed"] for row in spoken["current"]]
    assert len(spoken["candidate"]) == 8
    turns = read_turns([folder / "turns.parquet"])
    assert len(turns) == 40
    assert {turn.policy_digest for found in turns for turn in found.turns} == {spec.inputs["candidate"].digest}
    assert result.metrics["exactValue"] == pytest.approx(metrics["candidate"]["exact"]["value"])
    assert len(result.metrics) <= 32


def test_the_gate_decides_and_its_reason_has_figures(small_world: Any, spec: StageSpec) -> None:
    outcomes = {}
    for number, gate in enumerate(({"min_lift": "-1"}, {"min_lift": "0.9"}, {"min_acceptance": "1", "min_lift": "-1"})):
        result = small_world.result(with_gate(spec, **gate).model_copy(update={"iteration": number + 1}))
        outcomes[number] = result.decision
    assert [decision.outcome for decision in outcomes.values()] == ["Promote", "Reject", "Reject"]
    assert "40 pairs of conversations" in outcomes[0].reason
    assert "minAcceptance" in outcomes[2].reason


@pytest.mark.parametrize(
    ("training", "words"),
    [
        (
            {"held_out": {"heldOutQLift": 0.05, "heldOutQLiftLeast": -0.01}},
            "Q promised +0.0500 a suggestion, at least -0.0100",
        ),
        ({"held_out": {"heldOutQLift": 0.05}}, "Q promised +0.0500 a suggestion)"),
        ({"curves": []}, ""),
        (["nonsense"], ""),
    ],
)
def test_the_reason_holds_what_q_promised_against_what_was_measured(
    small_world: Any, spec: StageSpec, monkeypatch: pytest.MonkeyPatch, training: Any, words: str
) -> None:
    real = evaluate.load_policy

    def improved(directory: Path, *rest: Any) -> Any:
        (directory / "training.json").write_text(json.dumps(training))
        return real(directory, *rest)

    monkeypatch.setattr(evaluate, "load_policy", improved)
    reason = small_world.result(spec).message
    assert words in reason
    assert words or "promised" not in reason


def test_a_policy_against_itself_is_inconclusive_at_no_distance(small_world: Any, spec: StageSpec) -> None:
    same = spec.model_copy(update={"inputs": {**spec.inputs, "candidate": spec.inputs["policy"]}})
    result = small_world.result(same)
    assert result.decision is not None
    assert result.decision.outcome == "Inconclusive"
    assert result.metrics["lift"] == result.metrics["kl"] == 0.0
    assert result.metrics["liftLow"] < 0.0 < result.metrics["liftHigh"]
    assert result.metrics["value"] == result.metrics["valueCurrent"]


def test_the_kl_is_that_of_the_first_conversations(
    small_world: Any, spec: StageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two forwards over all of them would take as long as the conversations themselves."""
    measured = []
    monkeypatch.setattr(params, "KL_CONVERSATIONS", 7)
    real = evaluate.kl_per_suggestion
    monkeypatch.setattr(evaluate, "kl_per_suggestion", lambda *rest: measured.append(rest[2]) or real(*rest))
    result = small_world.result(spec)
    fetch(small_world.store, result.artifacts["evaluation"], small_world.folder / "fetched", "evaluation")
    held = read_turns([small_world.folder / "fetched" / "turns.parquet"])
    assert [[each.id for each in conversations] for conversations in measured] == [[each.id for each in held[:7]]]
    assert result.metrics["kl"] > 0


def test_policies_talk_at_the_temperature_they_are_deployed_at(small_world: Any, spec: StageSpec) -> None:
    cold = small_world.result(spec.model_copy(update={"collect": params.Collect(temperature="0.01")}))
    warm = small_world.result(spec.model_copy(update={"iteration": 2}))
    assert cold.metrics["kl"] > 2 * warm.metrics["kl"] > 0  # cold policies are nearly deterministic, and differ


def test_the_ledger_has_one_line_per_iteration_however_often_it_runs(small_world: Any, spec: StageSpec) -> None:
    second = small_world.result(spec.model_copy(update={"iteration": 2}))
    small_world.result(spec)
    small_world.store.delete("iterations/0002/evaluation/result.json")
    small_world.result(spec.model_copy(update={"iteration": 2}))
    lines = [json.loads(line) for line in small_world.store.read(LEDGER).decode().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2]
    assert lines[1]["metrics"] == second.metrics
    assert lines[1]["inputs"] == {name: ref.digest for name, ref in spec.inputs.items()}
    assert lines[1]["decision"] == second.decision.model_dump()


def test_every_iteration_has_customers_of_its_own_but_for_those_that_are_only_read(
    small_world: Any, spec: StageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[set[int]] = []

    def spy(environment: Any, agent: Any, batch: Any, *rest: Any) -> Any:
        met[-1] |= set(batch.seeds)
        return real_rollout(environment, agent, batch, *rest)

    monkeypatch.setattr(evaluate, "rollout", spy)
    spoken, counted = [], []
    for iteration in (1, 2):
        met.append(set())
        result = small_world.result(spec.model_copy(update={"iteration": iteration}))
        folder = small_world.folder / f"fetched-{iteration}"
        fetch(small_world.store, result.artifacts["evaluation"], folder, "evaluation")
        spoken.append(json.loads((folder / "transcripts.json").read_text())["current"])
        counted.append(json.loads((folder / "metrics.json").read_text())["current"]["conversations"])
    common = met[0] & met[1]
    assert counted == [40, 40]
    assert [len(seeds) for seeds in (*met, common)] == [44, 44, evaluate.READINGS]
    assert spoken[0][: evaluate.READINGS] == spoken[1][: evaluate.READINGS]
    assert {row["seed"] for row in spoken[0]} & {row["seed"] for row in spoken[1]} == set(map(str, common))


def test_stopped_it_resumes_to_the_same_bytes(
    small_world: Any, spec: StageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec.model_copy(update={"collect": params.Collect(batch_size=16)})
    whole = small_world.result(spec)
    small_world.store.delete("iterations/0001/evaluation/result.json")
    held = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal held
        held += 1
        return real_rollout(*arguments, **options)

    for batches in (2, 4):
        start = held
        with monkeypatch.context() as patch:
            patch.setattr(evaluate, "rollout", counted)
            patch.setattr(StopFlag, "is_set", lambda flag, stop=start + batches: held >= stop)
            code, _ = small_world.run(spec)
        assert (code, held - start) == (143, batches)
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "rollout", counted)
        assert small_world.result(spec).artifacts == whole.artifacts
    assert held == 8  # three batches for each policy; the two that were stopped after a turn went on from there


def test_a_checkpoint_with_other_customers_is_not_gone_on_with(
    small_world: Any, spec: StageSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As release 0.2 leaves it: pairs of different customers would be no pairs."""
    spec = spec.model_copy(update={"collect": params.Collect(batch_size=16)})
    whole = small_world.result(spec)
    small_world.store.delete("iterations/0001/evaluation/result.json")
    before = [(f"evaluation-{index:07d}", 1000 + index) for index in range(40)]
    held = []

    def counted(*arguments: Any, **options: Any) -> Any:
        held.append(real_rollout(*arguments, **options))
        return held[-1]

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "_customers", lambda ctx, section: before)
        patch.setattr(evaluate, "rollout", counted)
        patch.setattr(StopFlag, "is_set", lambda flag: bool(held))
        assert small_world.run(spec)[0] == 143
    assert small_world.result(spec).artifacts == whole.artifacts
    assert "with other customers" in caplog.text


def test_wrong_specs_and_policies_are_named(small_world: Any, spec: StageSpec) -> None:
    for update, code, words in (
        ({"evaluate": None}, 64, "evaluate is missing"),
        (
            {"environment": None, "inputs": {name: ref for name, ref in spec.inputs.items() if name != "q"}},
            64,
            "inputs.q is missing",  # logged states are scored instead
        ),
        ({"inputs": {name: ref for name, ref in spec.inputs.items() if name != "candidate"}}, 64, "inputs.candidate"),
        ({"inputs": {**spec.inputs, "candidate": spec.inputs["q"]}}, 65, "q"),
    ):
        got, message = small_world.run(spec.model_copy(update=update))
        assert got == code, message
        assert words in message["error"]["message"]


CUTTING = """
from ippo_trainer.environments.funnel.environment import Funnel

class Cut(Funnel):
    def step(self, suggestions):
        from dataclasses import replace
        last = self._turn + 1 == self.max_turns
        steps = super().step(suggestions)
        return [
            replace(s, censored=True, outcome=False) if last else s  # the last turn's end is not seen
            for s in steps
        ]
"""


def test_censored_conversations_are_weighted_for_and_bounded(small_world: Any, spec: StageSpec, tmp_path: Path) -> None:
    file = tmp_path / "cut.py"
    file.write_text(CUTTING)
    environment = params.EnvironmentSpec(name=f"{file}:Cut", options={"horizon": 4})
    result = small_world.result(spec.model_copy(update={"environment": environment}))
    metrics = result.metrics
    assert metrics["censored"] > 0
    assert metrics["successAtLeast"] <= metrics["success"] <= metrics["successAtMost"]
    assert metrics["successAtMost"] - metrics["successAtLeast"] == pytest.approx(metrics["censored"] / 40)
    assert "exactValue" not in metrics  # what is left is no sample of the policy
    assert "censored and weighted for" in result.message
    assert result.warnings is not None
    assert "nobody could see" in result.warnings[0]
    assert len(result.metrics) <= 32
    folder = small_world.folder / "fetched"
    fetch(small_world.store, result.artifacts["evaluation"], folder, "evaluation")
    content = json.loads((folder / "metrics.json").read_text())
    assert content["liftBounds"]["low"] <= content["lift"]["estimate"] <= content["liftBounds"]["high"]
    assert content["candidate"]["unseen"] > 0


def test_an_environment_that_censors_everything_is_named(small_world: Any, spec: StageSpec, tmp_path: Path) -> None:
    file = tmp_path / "silent.py"
    file.write_text(CENSORING)
    code, message = small_world.run(
        spec.model_copy(update={"environment": params.EnvironmentSpec(name=f"{file}:Silent")})
    )
    assert code == 65
    assert "0 of 40 pairs" in message["error"]["message"]
