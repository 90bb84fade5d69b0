"""The stage fit-q as the operator runs it: spec in, artifacts and exit code out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ippo_trainer.contract import params
from ippo_trainer.contract.spec import StageSpec
from ippo_trainer.models.last_layer import FILE, last_layer
from ippo_trainer.models.load import load_q
from ippo_trainer.stages import fit_q
from ippo_trainer.stages.runtime import StopFlag
from ippo_trainer.store.artifact import fetch, read_manifest

QUICK = params.FitQ(epochs=2, batch_size=16, learning_rate="0.004")


def spec_of(world: Any, conversations: Any, section: params.FitQ = QUICK, **fields: Any) -> StageSpec:
    inputs = {"policy": world.put_policy(), "data": world.put_data(conversations)}
    return world.spec("fit-q", inputs, fit_q=section, **fields)


def unseen(data: list[Any], keep: int) -> list[Any]:
    """Conversations of which the business saw the suggestions of a few only."""
    data[-1].outcome = data[0].outcome = True
    for found in data[keep:]:
        for turn in found.turns:
            turn.displayed = False
    return data


def buying(world: Any, count: int) -> list[Any]:
    """Demonstrations of which every fourth is said to have ended with a purchase."""
    data: list[Any] = world.demonstrations(count)
    for found in data[::4]:
        found.outcome = True
    return data


def test_it_publishes_a_q_with_an_account_of_what_it_knows(small_world: Any, tmp_path: Path) -> None:
    data = small_world.demonstrations(150)
    data[3] = replace(data[3], censored=True, outcome=False)
    result = small_world.result(spec_of(small_world, data))
    metrics = result.metrics
    assert metrics["conversations"] == 149
    assert metrics["censored"] == 1
    assert metrics["positives"] == sum(found.outcome for found in data)
    assert metrics["skillLow"] <= metrics["skill"] <= metrics["skillHigh"]
    assert metrics["skill"] == pytest.approx(1 - metrics["logLoss"] / metrics["logLossConstant"], abs=1e-5)
    assert metrics["slopeLow"] <= metrics["slope"] <= metrics["slopeHigh"]
    assert result.informative == (metrics["slopeLow"] > 0 and metrics["skillHigh"] > 0)
    for name in ("advantageCorrelation", "advantageCorrelationAllIntents"):
        assert -1 <= metrics[name] <= 1
    assert 0 < metrics["qError"] < 1
    assert metrics["miscalibrationLow"] <= metrics["miscalibration"] <= metrics["miscalibrationHigh"]
    assert metrics["successAtLeast"] <= metrics["positives"] / 150 <= metrics["successAtMost"]
    assert "1 of 150 conversations are censored" in result.message
    assert "held-out conversations" in result.message
    folder = tmp_path / "fetched"
    manifest = fetch(small_world.store, result.artifacts["q"], folder, "q")
    assert set(manifest.inputs) == {"policy", "data"}
    assert load_q(folder).config.num_labels == 1
    calibration = json.loads((folder / "calibration.json").read_text())
    assert [row["epoch"] for row in calibration["curves"]] == list(range(int(metrics["epochs"])))
    assert [row["turn"] for row in calibration["calibration"]] == sorted(
        {row["turn"] for row in calibration["calibration"]}
    )
    assert calibration["skill"].keys() == calibration["miscalibration"].keys() == {"estimate", "low", "high"}
    assert calibration["exact"]["intents"]["error"] == pytest.approx(metrics["qErrorAllIntents"])
    assert calibration["censoring"]["successBounds"]["low"] == pytest.approx(metrics["successAtLeast"])
    assert (folder / "prompt.json").exists()


def test_a_q_of_noise_is_published_as_not_informative(small_world: Any) -> None:
    data = small_world.demonstrations(80)
    for index, found in enumerate(data):
        found.outcome = index % 2 == 0
    result = small_world.result(spec_of(small_world, data, QUICK.model_copy(update={"epochs": 1})))
    assert result.informative is False
    assert "must not be optimised" in result.message
    assert "collect.simulate.conversations" in result.message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: [replace(found, outcome=False) for found in data], "none of the"),
        (
            lambda data: [replace(found, outcome=False, censored=True) for found in data],
            "all 40 conversations are censored",
        ),
        (lambda data: data[:6], "6 finished conversations are fewer than 10"),
        (lambda data: unseen(data, 0), "0 training and 0 held-out conversations have a displayed suggestion"),
        (lambda data: unseen(data, 2), "have a displayed suggestion"),
    ],
)
def test_data_that_teaches_nothing_is_refused_in_words(small_world: Any, change: Any, words: str) -> None:
    code, message = small_world.run(spec_of(small_world, change(small_world.demonstrations(40))))
    assert code == 65
    assert words in message["error"]["message"]


def test_the_last_layer_is_published_and_read_by_whoever_loads_q(small_world: Any, tmp_path: Path) -> None:
    result = small_world.result(spec_of(small_world, buying(small_world, 120)))
    fetch(small_world.store, result.artifacts["q"], tmp_path / "q", "q")
    layer = last_layer(load_q(tmp_path / "q"))
    assert layer is not None
    assert sorted(set(layer.member_rank.tolist())) == [16.0]  # the trunk's width: the others are above it
    assert len(layer.q) == params.LAST_LAYER_FOLDS
    account = json.loads((tmp_path / "q" / "calibration.json").read_text())
    assert account["standard_error"] == pytest.approx(result.metrics["qStandardError"])
    assert 0 < account["standard_error"] < 1


def test_without_least_squares_q_keeps_its_trained_head(small_world: Any, tmp_path: Path) -> None:
    section = QUICK.model_copy(update={"last_layer": "Gradient"})
    result = small_world.result(spec_of(small_world, buying(small_world, 120), section))
    fetch(small_world.store, result.artifacts["q"], tmp_path / "q", "q")
    assert last_layer(load_q(tmp_path / "q")) is None
    assert "qStandardError" not in result.metrics


def test_a_rank_above_the_trunks_width_is_refused_before_anything_is_trained(
    small_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_q, "_read", None)
    code, message = small_world.run(
        spec_of(small_world, buying(small_world, 40), QUICK.model_copy(update={"ranks": (4, 17)}))
    )
    assert code == 64
    assert "fitQ.ranks has 17, but the trunk of Q is only 16 wide" in message["error"]["message"]


def test_a_second_look_at_an_iterations_data_asks_for_more(small_world: Any) -> None:
    spec = spec_of(small_world, buying(small_world, 60))
    first = small_world.result(spec)
    second = small_world.result(spec.model_copy(update={"collection": 2}))
    assert "90% intervals" in first.message
    assert "95% intervals" in second.message
    assert second.metrics["skill"] == first.metrics["skill"]
    assert second.metrics["slopeLow"] < first.metrics["slopeLow"]


def test_one_class_is_refused(small_world: Any) -> None:
    data = [replace(found, outcome=True) for found in small_world.demonstrations(40)]
    code, message = small_world.run(spec_of(small_world, data, discount="1"))
    assert code == 65
    assert "one class" in message["error"]["message"]


def test_a_missing_section_or_input_is_a_bad_spec(small_world: Any) -> None:
    inputs = {"policy": small_world.put_policy()}
    code, message = small_world.run(small_world.spec("fit-q", inputs))
    assert (code, "fitQ" in message["error"]["message"]) == (64, True)
    code, message = small_world.run(small_world.spec("fit-q", inputs, fit_q=QUICK))
    assert (code, "inputs.data" in message["error"]["message"]) == (64, True)


def test_equal_inputs_give_equal_bytes_and_other_seeds_do_not(small_world: Any) -> None:
    spec = spec_of(small_world, buying(small_world, 60))
    first = small_world.result(spec)
    small_world.store.delete("iterations/0001/q/result.json")
    assert small_world.result(spec).artifacts == first.artifacts
    other = spec.model_copy(update={"seed": 8, "iteration": 2})
    assert small_world.result(other).artifacts["q"].digest != first.artifacts["q"].digest


def test_previous_q_is_the_start_where_it_is_asked_for(small_world: Any) -> None:
    spec = spec_of(small_world, buying(small_world, 60))
    first = small_world.result(spec)
    section = QUICK.model_copy(update={"init_from": "PreviousQ"})
    alone = spec.model_copy(update={"iteration": 2, "fit_q": section})
    follows = alone.model_copy(update={"iteration": 3, "inputs": {**spec.inputs, "previousQ": first.artifacts["q"]}})
    curves = []
    for number, each in enumerate((spec, alone, follows)):
        ref = small_world.result(each).artifacts["q"]
        fetch(small_world.store, ref, small_world.folder / f"q{number}", "q")
        curves.append(json.loads((small_world.folder / f"q{number}" / "calibration.json").read_text())["curves"])
    assert curves[2][0]["train_loss"] < min(curves[0][0]["train_loss"], curves[1][0]["train_loss"])


def _stopped(small_world: Any, spec: StageSpec, after: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Runs the stage, told to stop after some updates; returns its exit code and how many updates it made."""
    made, check = 0, StopFlag.is_set

    def is_set(flag: StopFlag) -> bool:
        return made >= after or check(flag)

    original = fit_q.Procedure.run

    def run(procedure: Any, after_update: Any) -> None:
        def counted() -> None:
            nonlocal made
            made += 1
            after_update()

        original(procedure, counted)

    with monkeypatch.context() as patch:
        patch.setattr(StopFlag, "is_set", is_set)
        patch.setattr(StopFlag, "signal", "SIGTERM", raising=False)
        patch.setattr(fit_q.Procedure, "run", run)
        code, _ = small_world.run(spec)
    return code, made


@pytest.mark.parametrize(("trace_lambda", "threads"), [("1", 1), ("0.5", 1), ("0.5", 2)])
def test_stopped_anywhere_it_resumes_to_the_same_bytes(
    small_world: Any, monkeypatch: pytest.MonkeyPatch, trace_lambda: str, threads: int
) -> None:
    section = QUICK.model_copy(update={"trace_lambda": trace_lambda})
    spec = spec_of(small_world, buying(small_world, 60), section).model_copy(update={"threads": threads})
    whole = small_world.result(spec)
    small_world.store.delete("iterations/0001/q/result.json")
    for steps in (1, 3, 4):  # inside an epoch, across its end, and, with a refit, across the phases
        code, made = _stopped(small_world, spec, steps, monkeypatch)
        assert (code, made) == (143, steps)
    resumed = small_world.result(spec)
    assert resumed.artifacts == whole.artifacts
    assert resumed.metrics == whole.metrics


def test_killed_it_resumes_to_the_same_bytes(small_world: Any) -> None:
    section = QUICK.model_copy(update={"epochs": 3, "patience": 3})
    spec = spec_of(small_world, buying(small_world, 60), section)
    whole = small_world.result(spec)
    small_world.store.delete("iterations/0001/q/result.json")
    for at_put in (5, 9, 21):  # a checkpoint is four files, a manifest and a pointer
        small_world.kill_at_put(spec, at_put)
    assert small_world.result(spec).artifacts == whole.artifacts


def test_two_processes_fit_what_one_does(small_world: Any) -> None:
    spec = spec_of(small_world, buying(small_world, 60), QUICK.model_copy(update={"trace_lambda": "0.5"}))
    one = small_world.result(spec).metrics
    small_world.store.delete("iterations/0001/q/result.json")
    two = small_world.result(spec.model_copy(update={"threads": 2})).metrics
    assert two == pytest.approx(one, rel=1e-3, abs=1e-4)


def test_data_of_which_nothing_is_the_policys_own_is_refused(small_world: Any) -> None:
    data = buying(small_world, 40)
    for found in data:
        for turn in found.turns:
            turn.behaviour = "explore"
    code, message = small_world.run(spec_of(small_world, data))
    assert (code, "every turn explored" in message["error"]["message"]) == (65, True)


def test_exploring_turns_are_counted_and_a_refit_runs(small_world: Any, caplog: pytest.LogCaptureFixture) -> None:
    data = buying(small_world, 80)
    for index, found in enumerate(data):
        for turn in found.turns[index % 2 :: 3]:
            turn.behaviour = "explore"
    section = QUICK.model_copy(update={"trace_lambda": "0.5", "epochs": 2})
    result = small_world.result(spec_of(small_world, data, section))
    explored = sum(turn.behaviour == "explore" for found in data for turn in found.turns)
    assert result.metrics["exploredShare"] == pytest.approx(
        explored / sum(len(found.turns) for found in data), abs=1e-3
    )
    assert result.metrics["epochs"] == 2
    assert "turns that nothing explored after" in caplog.text


def test_another_policys_conversations_are_left_out_and_told(
    small_world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    data = buying(small_world, 60)
    for found in data[40:]:
        for turn in found.turns:
            turn.policy_digest = "sha256:" + "0" * 64
    result = small_world.result(spec_of(small_world, data))
    assert result.metrics["conversations"] == 40
    assert "20 of 60 conversations were held by another policy and are left out" in caplog.text


def test_data_of_another_policy_alone_is_refused(small_world: Any) -> None:
    spec = spec_of(small_world, buying(small_world, 40))
    other = spec.model_copy(update={"inputs": {**spec.inputs, "policy": small_world.put_policy(1, "other")}})
    code, message = small_world.run(other)
    assert code == 65
    assert "none of the 40 conversations was held by the policy" in message["error"]["message"]


def test_manifest_traces_the_data(small_world: Any) -> None:
    spec = spec_of(small_world, buying(small_world, 60))
    manifest = read_manifest(small_world.store, small_world.result(spec).artifacts["q"])
    assert manifest.inputs["data"] == spec.inputs["data"].digest
    assert torch.get_num_threads() == 1


def test_earlier_iterations_give_their_turns_to_the_last_layer(small_world: Any, tmp_path: Path) -> None:
    data, others = buying(small_world, 60), small_world.demonstrations(30)
    for number, found in enumerate(others):
        found.id = f"other-{number}"
    spec = spec_of(small_world, data).model_copy(update={"iteration": 2})
    read = []
    for number, earlier in enumerate((None, data, [*data, *others])):
        inputs = spec.inputs | ({"earlierData1": small_world.put_data(earlier, f"earlier-{number}")} if earlier else {})
        result = small_world.result(spec.model_copy(update={"seed": 7, "iteration": 2, "inputs": inputs}))
        fetch(small_world.store, result.artifacts["q"], tmp_path / str(number), "q")
        read.append((tmp_path / str(number) / FILE).read_bytes())
        small_world.store.delete("iterations/0002/q/result.json")
    assert read[0] == read[1], "conversations of this iteration, held-out ones among them, are no earlier ones"
    assert read[0] != read[2]
