"""PPO's update: what must not change it, its run-time checks, and that it learns."""

import copy
from typing import Any

import pytest
import torch
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.improve.algorithms.ppo.algorithm import PLATEAU_WINDOW
from ippo_trainer.improve.algorithms.ppo.learner import Learner
from ippo_trainer.training.optimiser import Optimiser
from torch import Tensor


def weights(module: Any) -> Tensor:
    return torch.cat([value.detach().flatten() for value in module.parameters()])


def updated(toy: Any, **changes: Any) -> tuple[Tensor, Tensor, dict[str, float]]:
    learner = toy.learner()
    figures = learner.update(toy.experience(**changes))
    return weights(toy.policy), weights(learner.critic), figures


@pytest.mark.parametrize("max_tokens", [1, 60, 200])
def test_micro_batches_change_nothing(make_toy: Any, max_tokens: int) -> None:
    """Gradient accumulation over any cut of a minibatch ends at the same weights."""
    whole, cut = updated(make_toy()), updated(make_toy(max_tokens=max_tokens))
    for a, b in zip(whole[:2], cut[:2], strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    # A norm is a figure like any other; equal weights say that the gradients were equal.
    assert cut[2] == pytest.approx(whole[2], abs=1e-4, rel=1e-3)


def gradients(toy: Any, numbers: list[int]) -> tuple[Tensor, Tensor]:
    """Of the first step of policy and critic on these conversations as one minibatch."""
    learner = toy.learner()
    steps: list[Tensor] = []
    step = Optimiser.step

    def noted(optimiser: Optimiser, share: float = 1.0) -> float:
        steps.append(torch.cat([p.grad.flatten() for p in optimiser.parameters if p.grad is not None]))
        return step(optimiser, share)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Optimiser, "step", noted)
        learner.update(toy.experience(numbers))
    return steps[0], steps[1]


def test_batch_order_changes_nothing(make_toy: Any) -> None:
    one = {"minibatches": 1, "epochs": 1}
    plain = gradients(make_toy(**one), [0, 1, 2, 3, 4, 5])
    moved = gradients(make_toy(**one), [4, 2, 5, 0, 3, 1])
    for a, b in zip(plain, moved, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_first_ratio_is_one_and_nothing_is_clipped_then(make_toy: Any) -> None:
    _, _, figures = updated(make_toy(epochs=1, minibatches=1))
    assert figures["ratio_max"] == pytest.approx(1.0, abs=1e-4)
    assert figures["clip_fraction_low"] == figures["clip_fraction_high"] == 0.0
    assert figures["approx_kl"] == pytest.approx(0.0, abs=1e-8)


def test_stale_log_probabilities_are_noticed(toy: Any) -> None:
    """What the sampler's log-probs would be under stale weights, another temperature, or with dropout on."""
    experience = toy.experience()
    wrong = experience.old_logprobs - 0.01 * experience.batch.mask
    with pytest.raises(BadDataError, match=r"ratio of the first minibatch differs from 1 by 0\.01"):
        toy.learner().update(toy.experience(old_logprobs=wrong))


def test_ratio_is_one_at_another_temperature(make_toy: Any) -> None:
    toy = make_toy(temperature=0.7, epochs=1, minibatches=1)
    assert updated(toy)[2]["ratio_max"] == pytest.approx(1.0, abs=1e-4)
    batch = toy.experience().batch
    torch.testing.assert_close(
        batch.sampler_logprobs, toy.sampler.logprobs(toy.policy, batch).logprobs, atol=1e-5, rtol=0
    )


def test_train_and_eval_mode_agree(toy: Any) -> None:
    batch = toy.experience().batch
    plain = toy.sampler.logprobs(toy.policy, batch).logprobs
    toy.policy.train()
    assert torch.equal(toy.sampler.logprobs(toy.policy, batch).logprobs, plain)


def test_critic_starts_from_the_trunk_of_q_and_from_zero(toy: Any) -> None:
    learner = toy.learner()
    experience = toy.experience()
    packed = experience.batch.pieces[0].packed
    assert float(learner.critic(packed).detach().abs().max()) == 0.0
    assert torch.equal(learner.critic.trunk.embed_tokens.weight, toy.q.model.embed_tokens.weight)
    assert all(parameter.requires_grad for parameter in learner.critic.parameters())


def test_warm_up_explains_returns_and_leaves_the_policy_alone(toy: Any) -> None:
    learner, before = toy.learner(), weights(toy.policy)
    q_before = weights(toy.q)
    figures = [learner.warm_up(toy.experience()) for _ in range(20)]
    assert torch.equal(weights(toy.policy), before)
    assert torch.equal(weights(toy.q), q_before)
    assert figures[0]["explained_variance"] == pytest.approx(0.0, abs=1e-6)
    assert figures[-1]["explained_variance"] > 0.3
    assert figures[-1]["value_loss"] < figures[0]["value_loss"]


def test_the_warm_up_ends_on_a_plateau(make_toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_toy(critic_warmup_updates=50, updates=1).improvement()
    monkeypatch.setattr(Learner, "warm_up", lambda *_: {"explained_variance": 0.5})
    run.run(lambda: None)
    assert len(run.position.warm_up_curves) == 2 * PLATEAU_WINDOW
    assert run.position.updates == 1


def test_affine_q_gives_the_same_update(make_toy: Any) -> None:
    """Through the normaliser, a * Q + b trains like Q."""
    from ippo_trainer.improve.algorithms.ppo.credit import RewardNormaliser

    ends = []
    for a, b in ((1.0, 0.0), (0.01, 0.3), (40.0, -7.0)):
        toy = make_toy()
        scores = a * toy.experience().batch.scores.double() + b
        ends.append(updated(toy, rewards=RewardNormaliser.fit(scores)(scores))[0])
    torch.testing.assert_close(ends[1], ends[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(ends[2], ends[0], atol=1e-5, rtol=0)


def test_untrusted_responses_do_not_train(toy: Any) -> None:
    """A sampler whose log-probabilities are off by half a nat per token has run on other weights."""
    experience = toy.experience()
    batch = experience.batch
    batch.sampler_logprobs.sub_(0.5 * batch.mask)
    before = weights(toy.policy)
    figures = toy.learner().update(experience)
    assert figures["untrusted_share"] == 1.0
    assert torch.equal(weights(toy.policy), before)


def test_policy_stops_within_an_update_that_moves_it_too_far(make_toy: Any) -> None:
    toy = make_toy(learning_rate=0.2, epochs=8, kl_target=0.01)
    figures = updated(toy)[2]
    assert figures["policy_steps"] < 16


def test_repeated_updates_raise_q_within_states(make_toy: Any) -> None:
    toy = make_toy(kl_target=50.0)
    learner = toy.learner()
    for _ in range(5):
        learner.warm_up(toy.experience())
    first = float(toy.experience().batch.scores.mean())
    for _ in range(15):
        learner.update(toy.experience(kl_coefficient=0.0))
    assert float(toy.experience().batch.scores.mean()) > first + 0.05


def test_kl_weight_pulls_back_to_the_reference(make_toy: Any) -> None:
    """With nothing but KL in the reward, a policy that has strayed returns towards pi_i."""
    toy = make_toy(learning_rate=0.003)
    reference = copy.deepcopy(toy.policy)
    with torch.no_grad():
        for parameter in toy.policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))

    def kl(numbers: range) -> float:
        batch = toy.sampler.draw(toy.policy, [toy.states.of(n) for n in numbers], "kl", 1)
        own, ref = (toy.sampler.logprobs(model, batch).logprobs for model in (toy.policy, reference))
        return float((own - ref).sum(1).mean())

    learner, first = toy.learner(), kl(range(12))
    for _ in range(12):
        experience = toy.experience(range(12))
        ref = toy.sampler.logprobs(reference, experience.batch).logprobs
        zero = torch.zeros_like(experience.rewards)
        learner.update(toy.experience(range(12), rewards=zero, ref_logprobs=ref, kl_coefficient=1.0))
    assert first > 0.05
    assert kl(range(12)) < 0.5 * first
