"""GRPO and RLOO by trl's trainers on the toy: our prompts, our Q, our pi_i, our guards, and resuming."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.utils
import numpy as np
import pytest
import torch
from ippo_trainer.contract import params
from ippo_trainer.contract.algorithms import BY_TRL
from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.improve.algorithm import find
from ippo_trainer.improve.heldout import HeldOut
from ippo_trainer.improve.improvement import Improvement
from ippo_trainer.improve.sampler import Sampler
from ippo_trainer.improve.trl import loop
from ippo_trainer.models.halves import cast, halve
from ippo_trainer.models.packing import Group
from ippo_trainer.models.sampling import Sampling
from ippo_trainer.training import checkpoint
from torch import Tensor

from tests.unit.improve.conftest import PAD, SECTION, SEED, Toy

STOPS = {1, 4, 7, 10, 13}
"""Stop tokens that leave few suggestions without an end."""
NEW = 6
by_trl = pytest.mark.parametrize("name", BY_TRL)


def improvement(
    name: str, probe: range = range(0), halved: bool = False, stops: set[int] = STOPS, **changes: Any
) -> Improvement:
    """Of a new toy, on whose section the changes are made."""
    texts = {field: value if isinstance(value, int) else str(value) for field, value in changes.items()}
    toy = Toy(SECTION.model_copy(update={"algorithm": name, "updates": 4, **texts}), max_tokens=400)
    if halved:
        halve(toy.policy, torch.bfloat16)
        cast(toy.q, torch.bfloat16)
    sampling = Sampling(toy.section.samples_per_state, NEW, 1.0, stops, PAD)
    toy.sampler = Sampler(toy.q, sampling, SEED, toy.max_tokens)
    task = toy.task()
    return Improvement(task, find(name)(task), HeldOut(toy.sampler, toy.states, probe, 4, "probe"))


def weights(run: Improvement) -> Tensor:
    return torch.cat([value.detach().float().flatten() for value in run.task.policy.parameters()])


def never() -> None:
    """After every step: nothing."""


class Watched:
    """What trl is given and what it gives, in the order in which it happens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, run: Improvement) -> None:
        self.prompts: list[list[int]] = []
        self.suggestions: list[tuple[list[list[int]], list[int], list[float]]] = []
        self.logs: list[dict[str, float]] = []
        generate, reward, log = run.task.policy.generate, loop._Watch.q, loop._Watch.on_log

        def generated(*arguments: Any, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Any:
            self.prompts += [ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]
            return generate(*arguments, input_ids=input_ids, attention_mask=attention_mask, **options)

        def rewarded(watch: Any, prompts: Any, completion_ids: Any, **options: Any) -> list[float]:
            values = reward(watch, prompts, completion_ids, **options)
            self.suggestions.append((completion_ids, [int(number) for number in prompts], values))
            return values

        def logged(watch: Any, *arguments: Any, logs: Any = None, **options: Any) -> None:
            self.logs.append(dict(logs))
            log(watch, *arguments, logs=logs, **options)

        monkeypatch.setattr(run.task.policy, "generate", generated)
        monkeypatch.setattr(loop._Watch, "q", rewarded)
        monkeypatch.setattr(loop._Watch, "on_log", logged)


@by_trl
def test_prompts_ends_and_rewards_are_ours(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    run = improvement(name, updates=2)
    watched = Watched(monkeypatch, run)
    run.run(never)
    algorithm: Any = run.algorithm
    stream, samples = algorithm.stream, run.task.section.samples_per_state
    numbers = stream.numbers(0, 2 * algorithm.rollout.groups).tolist()
    assert watched.prompts == [stream.of(number).prompt for number in numbers for _ in range(samples)]
    position = algorithm.position
    assert len(watched.suggestions) == 2
    for completions, states, rewards in watched.suggestions:
        assert len(completions) == len(states) == len(rewards) == algorithm.rollout.suggestions
        for ids in completions:
            assert 1 <= len(ids) <= NEW
            assert not STOPS & set(ids[:-1])
            assert ids[-1] in STOPS or len(ids) == NEW
        groups = [Group(stream.of(number).prompt, [ids]) for number, ids in zip(states, completions, strict=True)]
        q = [scores[0] for scores in run.task.sampler.score(groups)]
        expected = [
            value if ids[-1] in STOPS else min(value, position.mean) - position.deviation
            for value, ids in zip(q, completions, strict=True)
        ]
        np.testing.assert_allclose(rewards, expected, atol=1e-6)
    assert any(ids[-1] not in STOPS for completions, _, _ in watched.suggestions for ids in completions)


def test_trls_anchor_is_pi_i_and_its_kl_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """RLOO logs the KL of the policy that generated, per token; the guard has it per suggestion."""
    run = improvement("RLOO", updates=3, minibatches=1, epochs=1, learning_rate=0.02)
    watched = Watched(monkeypatch, run)
    run.run(never)
    for row, logs in zip(run.position.curves, watched.logs, strict=False):
        assert row["kl"] == pytest.approx(logs["kl"] * logs["completions/mean_length"], abs=1e-5)
        assert logs["reward"] == row["reward_mean"]
    assert run.position.curves[-1]["kl"] > 0.01
    assert run.algorithm.position.kl_coefficient >= 0.05  # type: ignore[attr-defined]


@by_trl
def test_it_finds_what_q_prefers_within_the_budget(name: str) -> None:
    run = improvement(name, range(9, 12), updates=16, learning_rate=0.02, kl_target=1.0)
    run.run(never)
    sampler = Sampler(run.task.q, replace(run.task.sampler.sampling, samples=64), SEED, 4096)
    held = HeldOut(sampler, run.task.states, range(12), 12, "report")
    better, before = held.measure(run.task.policy, run.task.reference), held.measure(run.task.reference, None)
    assert better.lift_over(before).low > 0.02
    assert better.mean_kl().estimate <= run.task.settings.kl_budget
    first, *_, last = run.position.curves
    assert first["kl"] == 0.0
    assert last["reward_mean"] > first["reward_mean"]
    assert {"entropy", "policy_loss", "grad_norm", "learning_rate", "q_lift", "kl_coefficient"} <= last.keys()
    rates = [row["learning_rate"] for row in run.position.curves]
    assert rates[0] < max(rates) <= 0.02
    assert rates[-1] < 0.2 * max(rates)
    assert [row["update"] for row in run.position.curves] == list(range(16))
    assert [row["update"] for row in run.position.curves if "probe_kl" in row] == [3, 7, 11]


@by_trl
def test_beyond_the_budget_the_updates_end_and_the_last_policy_within_is_kept(name: str) -> None:
    run = improvement(name, updates=30, learning_rate=0.2, kl_target=0.05)
    run.run(never)
    assert "the KL budget was used up after" in run.position.end
    assert run.position.result == "safe"
    assert run.position.result_update == run.position.updates - 1
    assert all(row["kl"] <= run.task.settings.kl_budget for row in run.position.curves)


@by_trl
def test_a_loss_that_is_not_finite_ends_the_updates(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    run = improvement(name)
    start = weights(run)
    monkeypatch.setattr(type(run.algorithm), "rewards", lambda _, batch: batch.scores * float("inf"))
    run.algorithm.position.warm_ups = 1  # type: ignore[attr-defined]
    run.run(never)
    assert "not finite in update 0" in run.position.end
    assert torch.equal(weights(run), start)


@pytest.mark.parametrize("halved", [False, True])
@by_trl
def test_stopped_after_any_update_it_resumes_to_the_same_weights(tmp_path: Path, name: str, halved: bool) -> None:
    whole = improvement(name, range(9, 12), halved, updates=3)
    whole.run(never)
    assert whole.position.updates == 3
    start = weights(improvement(name, halved=halved))
    assert not torch.equal(weights(whole), start)
    for stop in (1, 3):  # after the warm-up, and among the updates
        run = improvement(name, range(9, 12), halved, updates=3)

        def at_stop(run: Improvement = run, stop: int = stop) -> None:
            if run.steps == stop:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            run.run(at_stop)
        folder = tmp_path / f"{stop}"
        folder.mkdir()
        checkpoint.save(folder, run)
        torch.manual_seed(stop)  # of whatever ran in between
        again = improvement(name, range(9, 12), halved, updates=3)
        assert checkpoint.load(folder, again)
        again.run(never)
        assert torch.equal(weights(again), weights(whole))
        assert again.position == whole.position


@by_trl
def test_nothing_of_trls_is_left_or_leaves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    asked: list[Any] = []
    monkeypatch.setattr(huggingface_hub.utils._telemetry, "_TELEMETRY_QUEUE", type("Q", (), {"put": asked.append}))
    run = improvement(name, updates=1)
    policy, reference = run.task.policy, run.task.reference
    before = [(set(vars(model)), model.config.to_dict(), model.forward) for model in (policy, reference)]
    fixed = weights_of(reference)
    run.run(never)
    assert [(set(vars(model)), model.config.to_dict(), model.forward) for model in (policy, reference)] == before
    assert torch.equal(weights_of(reference), fixed)
    assert not any(module.training for module in policy.modules())
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out == ""
    assert not asked


def weights_of(model: Any) -> Tensor:
    return torch.cat([value.detach().flatten().clone() for value in model.parameters()])


@by_trl
def test_without_any_end_all_suggestions_are_worth_less_than_the_mean(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run = improvement(name, stops={99}, updates=1)
    watched = Watched(monkeypatch, run)
    run.run(never)
    assert run.position.curves[0]["truncation_rate"] == 1.0
    position: Any = run.algorithm.position  # type: ignore[attr-defined]
    assert max(watched.suggestions[0][2]) <= position.mean - position.deviation + 1e-6
    assert len({round(value, 6) for value in watched.suggestions[0][2]}) > 1


@by_trl
def test_settings_that_trl_cannot_honour_are_refused(name: str) -> None:
    with pytest.raises(BadSpecError, match=rf"improve\.samplesPerState is 1: {name} compares"):
        improvement(name, samples_per_state=1)


def test_rloo_has_no_entropy_bonus() -> None:
    with pytest.raises(BadSpecError, match=r"improve\.entropyCoefficient is 0\.01: trl's RLOO has no entropy bonus"):
        improvement("RLOO", entropy_coefficient="0.01")
    improvement("GRPO", entropy_coefficient="0.01", updates=1).run(never)


def test_the_kl_weight_is_the_one_that_fits_the_budget() -> None:
    """Half the spread's square over the budget: where rewards are Gaussian, the optimum spends exactly that."""
    run, low = improvement("GRPO", kl_coefficient=0.0, updates=1), improvement("GRPO", kl_coefficient=0.7, updates=1)
    for each in (run, low):
        each.run(never)
    row = run.position.warm_up_curves[0]
    assert row["kl_coefficient"] == pytest.approx(row["q_spread_within_states"] / 2**0.5)
    assert low.position.warm_up_curves[0]["kl_coefficient"] == 0.7


def test_defaults_suit_trl() -> None:
    """What a user leaves out is accepted by both trainers."""
    for name in BY_TRL:
        section = params.Improve(algorithm=name)
        kind, config = find(name).trainer()  # type: ignore[attr-defined]
        assert {kind.__name__, config.__name__} == {f"{name}Trainer", f"{name}Config"}
        assert section.samples_per_state >= 2
        assert float(section.entropy_coefficient) == 0.0
