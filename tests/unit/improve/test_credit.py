"""Reward scale, token rewards and GAE: loops in float64, and what must not change them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ippo_trainer.improve.algorithms.ppo.credit import (
    RewardNormaliser,
    generalised_advantages,
    penalise_truncated,
    token_rewards,
)
from ippo_trainer.improve.maths import whiten
from torch import Tensor

quick = settings(max_examples=40)
shares = st.sampled_from([0.0, 0.5, 0.95, 1.0])
shapes = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(0, 10**6))


def batch(shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, values and a right-padded mask, (B, T)."""
    rows, columns, seed = shape
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, columns + 1, (rows,), generator=generator)
    rewards, values = torch.randn(2, rows, columns, generator=generator).unbind()
    return rewards, values, torch.arange(columns) < lengths[:, None]


def gae_loop(rewards: list[float], values: list[float], lam: float) -> list[float]:
    """One unmasked sequence, by the defining double sum: A_t = sum_l lam^l delta_(t+l)."""
    following = [*values[1:], 0.0]
    delta = [r + f - v for r, f, v in zip(rewards, following, values, strict=True)]
    return [sum(lam ** (s - t) * delta[s] for s in range(t, len(delta))) for t in range(len(delta))]


@quick
@given(shapes, shares, shares)
def test_gae_equals_its_double_sum(shape: tuple[int, int, int], lambda_policy: float, lambda_value: float) -> None:
    rewards, values, mask = batch(shape)
    credit = generalised_advantages(rewards, values, mask, lambda_policy, lambda_value)
    for b in range(len(mask)):
        keep = mask[b]
        r, v = rewards[b][keep].tolist(), values[b][keep].tolist()
        advantages = gae_loop(r, v, lambda_policy)
        targets = [a + x for a, x in zip(gae_loop(r, v, lambda_value), v, strict=True)]
        assert credit.advantages[b][keep].tolist() == pytest.approx(advantages, abs=1e-5)
        assert credit.returns[b][keep].tolist() == pytest.approx(targets, abs=1e-5)
        assert float(credit.advantages[b][~keep].abs().sum() + credit.returns[b][~keep].abs().sum()) == 0.0


@quick
@given(shapes, shares, st.integers(1, 5), st.booleans())
def test_masked_tokens_anywhere_leave_gae_unchanged(
    shape: tuple[int, int, int], lam: float, inserted: int, nan: bool
) -> None:
    """GAE of the compressed tokens == GAE with any number of masked tokens inserted or appended."""
    rewards, values, mask = batch(shape)
    generator = torch.Generator().manual_seed(shape[2] + 1)
    columns = mask.shape[1] + inserted
    kept = torch.randperm(columns, generator=generator)[: mask.shape[1]].sort().values
    junk = float("nan") if nan else 7.0
    wide_rewards, wide_values = torch.full((2, len(mask), columns), junk).unbind()
    wide_mask = torch.zeros(len(mask), columns, dtype=torch.bool)
    wide_rewards[:, kept], wide_values[:, kept], wide_mask[:, kept] = rewards, values, mask
    plain = generalised_advantages(rewards, values, mask, lam, 1.0)
    wide = generalised_advantages(wide_rewards, wide_values, wide_mask, lam, 1.0)
    assert torch.equal(wide.advantages[:, kept], plain.advantages)
    assert torch.equal(wide.returns[:, kept], plain.returns)
    assert bool(wide.advantages.isfinite().all())


def test_lambda_one_returns_are_rewards_to_go() -> None:
    rewards, values, mask = batch((3, 5, 1))
    returns = generalised_advantages(rewards, values, mask, 0.95, 1.0).returns
    expected = torch.where(mask, rewards, 0).flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(returns, torch.where(mask, expected, 0))


@quick
@given(shapes, st.floats(0, 2))
def test_token_rewards_equal_their_loop(shape: tuple[int, int, int], beta: float) -> None:
    logprobs, ref, mask = batch(shape)
    scores = torch.arange(len(mask)).float() + 1
    result = token_rewards(scores, logprobs, ref, mask, beta)
    for b in range(len(mask)):
        last = max(t for t in range(mask.shape[1]) if mask[b, t])
        for t in range(mask.shape[1]):
            penalty = -beta * float(logprobs[b, t] - ref[b, t]) if mask[b, t] else 0.0
            assert float(result[b, t]) == pytest.approx(penalty + (b + 1 if t == last else 0), abs=1e-5)


def test_one_token_response_by_hand() -> None:
    """Reward 2 on the end token itself, KL 0.5 * (-0.7 + 1.2) = 0.25, value 0.4: advantage 1.35, return 1.75."""
    mask = torch.tensor([[True, False]])
    logprobs = torch.tensor([[-0.7, float("nan")]], requires_grad=True)
    rewards = token_rewards(torch.tensor([2.0]), logprobs, torch.tensor([[-1.2, 0.0]]), mask, 0.5)
    assert rewards.tolist() == [[1.75, 0.0]]
    assert not rewards.requires_grad
    credit = generalised_advantages(rewards, torch.tensor([[0.4, 9.0]]), mask, 0.95, 1.0)
    assert credit.advantages[0].tolist() == pytest.approx([1.35, 0.0])
    assert credit.returns[0].tolist() == pytest.approx([1.75, 0.0])


def test_response_without_tokens_gets_no_reward() -> None:
    mask = torch.tensor([[False, False], [True, True]])
    rewards = token_rewards(torch.tensor([5.0, 3.0]), torch.zeros(2, 2), torch.zeros(2, 2), mask, 0.1)
    assert rewards.tolist() == [[0.0, 0.0], [0.0, 3.0]]


@quick
@given(st.floats(0.01, 50), st.floats(-5, 5), st.integers(0, 10**6))
def test_rewards_do_not_change_under_affine_q(a: float, b: float, seed: int) -> None:
    scores = torch.rand(64, generator=torch.Generator().manual_seed(seed)).double()
    fresh = torch.rand(8, generator=torch.Generator().manual_seed(seed + 1)).double()
    plain = RewardNormaliser.fit(scores)(fresh)
    moved = RewardNormaliser.fit(a * scores + b)(a * fresh + b)
    torch.testing.assert_close(moved, plain, atol=1e-5, rtol=1e-5)


def test_normaliser_centres_scales_and_clips() -> None:
    normaliser = RewardNormaliser.fit(torch.tensor([0.1, 0.3]))
    assert normaliser(torch.tensor([0.1, 0.3, 0.2, 9.0])).tolist() == pytest.approx([-1, 1, 0, 10], abs=1e-5)
    again = RewardNormaliser.model_validate_json(normaliser.model_dump_json())
    assert again == normaliser


def test_constant_q_gives_no_reward() -> None:
    normaliser = RewardNormaliser.fit(torch.full((100,), 0.3))
    assert normaliser(torch.tensor([0.3, 0.9])).tolist() == [0.0, 0.0]


def test_truncated_responses_lose_whatever_q_says() -> None:
    rewards = torch.tensor([3.0, -2.0, 3.0, -2.0])
    ended = torch.tensor([False, False, True, True])
    assert penalise_truncated(rewards, ended).tolist() == [-1.0, -3.0, 3.0, -2.0]


def test_batch_order_changes_nothing() -> None:
    rewards, values, mask = batch((4, 6, 3))
    order = torch.tensor([2, 0, 3, 1])
    plain = generalised_advantages(rewards, values, mask, 0.95, 1.0)
    moved = generalised_advantages(rewards[order], values[order], mask[order], 0.95, 1.0)
    assert torch.equal(moved.advantages, plain.advantages[order])
    torch.testing.assert_close(
        whiten(moved.advantages, mask[order]), whiten(plain.advantages, mask)[order], atol=1e-6, rtol=0
    )
