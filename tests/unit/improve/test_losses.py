"""PPO's losses: loops, the piecewise table of the dual clip, hand-derived gradients, and KL placements."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ippo_trainer.improve.algorithms.ppo.credit import generalised_advantages, token_rewards
from ippo_trainer.improve.algorithms.ppo.losses import aggregate, clipped_policy_loss, value_loss
from torch import Tensor

LOW, HIGH, DUAL = 0.2, 0.28, 3.0
quick = settings(max_examples=60)
numbers = st.floats(-3, 3, width=32)


def one(value: float) -> Tensor:
    return torch.tensor([[value]])


def loss_of(new: float, old: float, advantage: float) -> float:
    mask = torch.ones(1, 1, dtype=torch.bool)
    return float(clipped_policy_loss(one(new), one(old), one(advantage), mask, LOW, HIGH, DUAL).loss)


def loss_oracle(new: float, old: float, advantage: float) -> float:
    ratio = math.exp(min(max(new - old, -20), 20))
    gain = min(ratio * advantage, min(max(ratio, 1 - LOW), 1 + HIGH) * advantage)
    return -(max(gain, DUAL * advantage) if advantage < 0 else gain)


@quick
@given(numbers, numbers, numbers)
def test_policy_loss_equals_its_formula(new: float, old: float, advantage: float) -> None:
    assert loss_of(new, old, advantage) == pytest.approx(loss_oracle(new, old, advantage), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (0.5, 1.0, -0.5, -1.0),
        (1.0, 1.0, -1.0, -1.0),
        (1.2, 1.0, -1.2, -1.0),
        (1.5, 1.0, -1.28, 0.0),
        (0.5, -1.0, 0.8, 0.0),
        (0.9, -1.0, 0.9, 1.0),
        (2.0, -1.0, 2.0, 1.0),
        (5.0, -1.0, 3.0, 0.0),
        (5.0, -2.0, 6.0, 0.0),
    ],
)
def test_piecewise_table(ratio: float, advantage: float, loss: float, slope: float) -> None:
    """Loss and its slope in the ratio, on every piece of clip-higher and dual clip."""
    new = torch.tensor([[math.log(ratio)]], requires_grad=True)
    mask = torch.ones(1, 1, dtype=torch.bool)
    result = clipped_policy_loss(new, one(0.0), one(advantage), mask, LOW, HIGH, DUAL)
    assert float(result.loss.detach()) == pytest.approx(loss, rel=1e-5)
    result.loss.sum().backward()
    assert new.grad is not None
    assert float(new.grad) == pytest.approx(slope * ratio, rel=1e-5, abs=1e-7)
    assert bool(result.clipped_low) == (advantage < 0 and ratio < 1 - LOW)
    assert bool(result.clipped_high) == (advantage > 0 and ratio > 1 + HIGH)
    assert bool(result.dual_clipped) == (advantage < 0 and ratio > DUAL)


def test_extreme_log_ratios_stay_finite() -> None:
    new = torch.tensor([[0.0, -500.0]], requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    result = clipped_policy_loss(
        new, torch.tensor([[-500.0, 0.0]]), torch.tensor([[-1.0, -1.0]]), mask, LOW, HIGH, DUAL
    )
    result.loss.sum().backward()
    assert new.grad is not None
    assert bool(result.loss.isfinite().all())
    assert bool(new.grad.isfinite().all())


def test_masked_tokens_give_neither_loss_nor_gradient() -> None:
    new = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    mask = torch.tensor([[True, False]])
    old = torch.tensor([[-1.0, float("nan")]])
    result = clipped_policy_loss(new, old, torch.tensor([[1.0, 5.0]]), mask, LOW, HIGH, DUAL)
    result.loss.sum().backward()
    assert new.grad is not None
    assert result.loss.tolist() == [[-1.0, 0.0]]
    assert new.grad[0, 0] == -1.0


@quick
@given(numbers, numbers)
def test_value_loss_equals_its_formula(value: float, target: float) -> None:
    result = value_loss(one(value), one(target), torch.ones(1, 1, dtype=torch.bool))
    assert float(result) == pytest.approx(0.5 * (value - target) ** 2, rel=1e-4, abs=1e-5)


def test_bandit_gradient_by_hand() -> None:
    """At ratio 1 the gradient in the logits is -(1/N) sum_n A_n (e_(a_n) - pi)."""
    logits = torch.tensor([0.3, -0.5, 1.1], requires_grad=True)
    actions, advantages = torch.tensor([0, 2, 2, 1]), torch.tensor([1.0, -0.5, 2.0, 0.3])
    policy = logits.detach().softmax(0)
    new = logits.log_softmax(0)[actions][:, None]
    mask = torch.ones(4, 1, dtype=torch.bool)
    losses = clipped_policy_loss(new, new.detach(), advantages[:, None], mask, LOW, HIGH, DUAL).loss
    aggregate(losses, 4).backward()
    by_hand = -sum(a * (torch.eye(3)[n] - policy) for a, n in zip(advantages, actions, strict=True)) / 4
    torch.testing.assert_close(logits.grad, by_hand)


def test_bandit_gradient_off_policy_by_hand() -> None:
    """Away from ratio 1, unclipped samples count with their ratio and clipped ones not at all."""
    logits = torch.tensor([0.0, 0.6], requires_grad=True)
    policy = logits.detach().softmax(0)
    old = torch.tensor([0.5, 0.5]).log()
    new = logits.log_softmax(0)[:, None]
    ratio = (policy / 0.5).tolist()  # 0.709 and 1.291
    mask = torch.ones(2, 1, dtype=torch.bool)
    losses = clipped_policy_loss(new, old[:, None], torch.tensor([[1.0], [1.0]]), mask, LOW, HIGH, DUAL)
    assert losses.clipped_high.tolist() == [[False], [True]]
    aggregate(losses.loss, 2).backward()
    torch.testing.assert_close(logits.grad, -(ratio[0] / 2) * (torch.tensor([1.0, 0.0]) - policy))


def test_aggregation_is_the_same_for_every_split() -> None:
    """Token-sum over a global count: however a minibatch is cut, losses and gradients add up to the same."""
    generator = torch.Generator().manual_seed(5)
    weights = torch.randn(6, 5, generator=generator)
    mask = torch.arange(5) < torch.tensor([5, 1, 3, 2, 5, 4])[:, None]
    count = int(mask.sum())
    gradients = []
    for size in (1, 2, 3, 6):
        x = torch.ones(6, 5, requires_grad=True)
        for start in range(0, 6, size):
            rows = slice(start, start + size)
            losses = clipped_policy_loss(
                x[rows].log() * 0.1, torch.zeros(6, 5)[rows], weights[rows], mask[rows], LOW, HIGH, DUAL
            ).loss
            aggregate(losses, count).backward()
        assert x.grad is not None
        gradients.append(x.grad)
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], atol=1e-7, rtol=1e-6)


class Tabular:
    """A language model over V tokens and responses of exactly T, one row of logits per prefix; all are enumerated."""

    def __init__(self, vocabulary: int, length: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.sequences = list(product(range(vocabulary), repeat=length))
        self.prefixes = {
            p: i for i, p in enumerate(p for n in range(length) for p in product(range(vocabulary), repeat=n))
        }
        shape = (len(self.prefixes), vocabulary)
        self.logits = torch.randn(shape, generator=generator, dtype=torch.float64)
        self.reference = torch.randn(shape, generator=generator, dtype=torch.float64)
        self.rewards = torch.randn(len(self.sequences), generator=generator, dtype=torch.float64)
        self.mask = torch.ones(len(self.sequences), length, dtype=torch.bool)

    def logprobs(self, logits: Tensor) -> Tensor:
        """(sequences, T)."""
        table = logits.log_softmax(-1)
        return torch.stack(
            [torch.stack([table[self.prefixes[s[:t]], s[t]] for t in range(len(s))]) for s in self.sequences]
        )

    def objective(self, logits: Tensor, beta: float) -> Tensor:
        """E[R] - beta * KL(policy || reference) over whole responses, exactly."""
        each = self.logprobs(logits).sum(1)
        return (each.exp() * (self.rewards - beta * (each - self.logprobs(self.reference).sum(1)))).sum()

    def finite_differences(self, beta: float, step: float = 1e-5) -> Tensor:
        gradient = torch.zeros_like(self.logits)
        for index in range(gradient.numel()):
            nudge = torch.zeros_like(self.logits)
            nudge.view(-1)[index] = step
            up, down = self.objective(self.logits + nudge, beta), self.objective(self.logits - nudge, beta)
            gradient.view(-1)[index] = (up - down) / (2 * step)
        return gradient


def test_kl_in_reward_has_the_gradient_of_the_objective() -> None:
    """Expected policy-gradient step with k1 in the reward == finite differences of E[R] - beta KL of responses."""
    model, beta = Tabular(3, 2, seed=1), 0.3
    logits = model.logits.clone().requires_grad_()
    logprobs = model.logprobs(logits)
    old = logprobs.detach()
    rewards = token_rewards(model.rewards, old, model.logprobs(model.reference), model.mask, beta)
    values = torch.zeros_like(rewards)
    credit = generalised_advantages(rewards, values, model.mask, 1.0, 1.0)
    losses = clipped_policy_loss(logprobs, old, credit.advantages, model.mask, LOW, HIGH, DUAL).loss
    aggregate(losses * old.sum(1).exp()[:, None], 1.0).backward()
    assert logits.grad is not None
    torch.testing.assert_close(-logits.grad, model.finite_differences(beta), atol=1e-7, rtol=1e-5)
