"""MPO's loop: what the policy imitates, what bounds it, and that it resumes."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.improve.algorithms.mpo import candidates
from ippo_trainer.improve.algorithms.mpo.candidates import Pool
from ippo_trainer.improve.sampler import Sampler
from ippo_trainer.models.sampling import Sampled
from ippo_trainer.training import checkpoint


def ignore() -> None:
    """After a step."""


def weights(training: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in training.task.policy.state_dict().items()}


def test_the_policy_gets_better_within_the_budget(make_training: Any) -> None:
    training = make_training(epochs=6)
    training.run(ignore)
    position = training.position
    probe = training.probe
    base, better = (
        probe.measure(training.task.reference, None),
        probe.measure(training.task.policy, training.task.reference),
    )
    assert better.lift_over(base).estimate > 0.01
    assert better.mean_kl().estimate <= 1.5
    assert position.result_update in {row["update"] for row in position.curves}
    assert [row["update"] for row in position.curves] == [3, 6, 9, 12, 15, 18]
    assert training.steps == training.total == 3 + 18
    assert position.curves[-1]["policy_loss"] < position.curves[0]["policy_loss"]


def slow_loss(training: Any, members: list[int]) -> torch.Tensor:
    """Nats per state, response by response and token by token."""
    total = torch.zeros((), dtype=torch.float64)
    for number in members:
        place, target = training.algorithm.pool.states[number], training.algorithm._targets[number]
        prompt = training.task.states.of(place.conversation)[place.turn].prompt
        for ids, weight in zip(target.responses, target.weights, strict=True):
            logits = training.task.policy(torch.tensor([prompt + ids])).logits[0].double().log_softmax(-1)
            places = range(len(prompt) - 1, len(prompt) + len(ids) - 1)
            total = total - weight * sum(logits[at, token] for at, token in zip(places, ids, strict=True))
    return total / len(members)


@pytest.mark.parametrize("max_tokens", [4096, 40])
def test_an_update_follows_the_gradient_of_the_weighted_likelihood(make_training: Any, max_tokens: int) -> None:
    training = make_training(max_tokens=max_tokens)
    for _ in range(training.algorithm.warm_ups):
        training.algorithm._draw()
    training.algorithm._tilt = training.algorithm._spend(0.5)
    training.algorithm._targets = candidates.worth_training(
        training.algorithm.pool.states, training.algorithm._tilt, training.algorithm.settings.least_weight
    )
    members = training.algorithm._members()
    expected = slow_loss(training, members)
    gradients = torch.autograd.grad(expected, list(training.task.policy.parameters()))
    norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))
    loss, found = training.algorithm._imitate(members)
    assert loss == pytest.approx(float(expected.detach()), rel=1e-4)
    assert found == pytest.approx(norm, rel=1e-3)


def test_every_conversation_is_imitated_once_in_a_pass(make_training: Any) -> None:
    training = make_training(conversations=7)
    for _ in range(training.algorithm.warm_ups):
        training.algorithm._draw()
    seen = []
    for batch in range(training.algorithm._batches):
        training.algorithm.position.batch = batch
        seen += training.algorithm._members()
    assert sorted(seen) == list(range(len(training.algorithm.pool.states)))


def test_candidates_are_distinct_scored_and_drawn_once(make_training: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    real = candidates.draw
    monkeypatch.setattr(
        "ippo_trainer.improve.algorithms.mpo.algorithm.draw",
        lambda rows, *rest: (drawn.extend(rows), real(rows, *rest))[1],
    )
    training = make_training()
    training.run(ignore)
    assert sorted(drawn) == sorted(training.algorithm._numbers)
    assert len(drawn) == 9
    for each in training.algorithm.pool.states:
        assert len(set(map(tuple, each.responses))) == len(each.responses) == len(each.prior) == len(each.q)
        assert sum(each.prior) == pytest.approx(1.0)
        assert all(0 < value < 1 for value in each.q)


def test_q_of_a_candidate_is_that_of_the_model(make_training: Any) -> None:
    training = make_training()
    training.algorithm._draw()
    for each in training.algorithm.pool.states[::3]:
        prompt = training.task.states.of(each.conversation)[each.turn].prompt
        for ids, q in zip(each.responses, each.q, strict=True):
            with torch.no_grad():
                hidden = training.task.q.model(torch.tensor([prompt + ids])).last_hidden_state[0, -1]
            assert q == pytest.approx(float(training.task.q.score(hidden).sigmoid()), abs=1e-4)


@pytest.mark.parametrize("target", [0.01, 0.05])
def test_a_small_budget_is_kept_or_nothing_changes(make_training: Any, target: float) -> None:
    training = make_training(kl_target=target, learning_rate=0.03)
    before = weights(training)
    training.run(ignore)
    kl = training.probe.measure(training.task.policy, training.task.reference).mean_kl().estimate
    assert kl <= 1.5 * target + 1e-6
    if training.position.result_update == 0:
        for name, value in weights(training).items():
            torch.testing.assert_close(value, before[name], atol=0, rtol=0)


def test_what_moves_too_far_gets_less_to_spend(make_training: Any) -> None:
    training = make_training(kl_target=0.02, learning_rate=0.03)
    training.run(ignore)
    spent = [row["tilt_kl"] for row in training.position.curves]
    assert spent[-1] < spent[0]
    assert training.algorithm.position.budget < 0.02


def test_a_loss_that_is_not_finite_ends_it_and_keeps_a_policy_that_was_measured(
    make_training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = make_training()
    real, calls = training.algorithm._imitate, []

    def imitate(members: list[int]) -> tuple[float, float]:
        calls.append(members)
        return (math.nan, 1.0) if len(calls) == 5 else real(members)

    monkeypatch.setattr(training.algorithm, "_imitate", imitate)
    training.run(ignore)
    assert "not finite in update 4" in training.position.end
    assert training.position.result_update in (0, 3)
    assert all(bool(torch.isfinite(value).all()) for value in training.task.policy.state_dict().values())


def test_states_without_a_suggestion_that_ends_are_left_out_and_none_at_all_is_an_error(
    make_training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_: Any, model: Any, conversations: Any, purpose: str) -> list[list[Sampled]]:
        return [[Sampled([3], [-1.0], False)] for row in conversations for _ in row]

    monkeypatch.setattr(Sampler, "sample", never)
    with pytest.raises(BadDataError, match="no suggestion that was sampled"):
        make_training().run(ignore)


class HaltError(Exception):
    """Ends a run after a step."""


@pytest.mark.parametrize("steps", [1, 3, 4, 6, 9])
def test_stopped_after_any_step_it_ends_as_if_it_had_not(make_training: Any, tmp_path: Path, steps: int) -> None:
    whole = make_training(kl_target=0.05)
    whole.run(ignore)
    first = make_training(kl_target=0.05)

    def stop() -> None:
        if first.steps == steps:
            checkpoint.save(tmp_path, first)
            raise HaltError

    with pytest.raises(HaltError):
        first.run(stop)
    second = make_training(kl_target=0.05)
    assert checkpoint.load(tmp_path, second)
    assert second.steps == steps
    second.run(ignore)
    assert second.position == whole.position
    for name, value in weights(second).items():
        torch.testing.assert_close(value, weights(whole)[name], atol=0, rtol=0)


def test_a_pool_comes_back_from_its_tensors(make_training: Any) -> None:
    training = make_training()
    training.algorithm._draw()
    again = Pool()
    again.set_tensors(training.algorithm.pool.tensors())
    assert again.states == training.algorithm.pool.states
    np.testing.assert_array_equal(again.table().q, training.algorithm.pool.table().q)
    empty = Pool()
    empty.set_tensors(Pool().tensors())
    assert empty.states == []
