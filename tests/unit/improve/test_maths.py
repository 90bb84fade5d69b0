"""Tensor functions against slow float64 loops, and their properties."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ippo_trainer.improve import maths
from torch import Tensor

Rows = list[list[float]]
shapes = st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(0, 10**6))
quick = settings(max_examples=40)


def table(shape: tuple[int, int, int], scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Two (B, T) tables and a right-padded mask with at least one token per row."""
    rows, columns, seed = shape
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, columns + 1, (rows,), generator=generator)
    mask = torch.arange(columns) < lengths[:, None]
    first = torch.randn(rows, columns, generator=generator) * scale
    return first, torch.randn(rows, columns, generator=generator) * scale, mask


def whiten_loop(values: Rows, mask: list[list[bool]]) -> Rows:
    chosen = [v for row, keep in zip(values, mask, strict=True) for v, k in zip(row, keep, strict=True) if k]
    mean = sum(chosen) / len(chosen)
    variance = sum((v - mean) ** 2 for v in chosen) / len(chosen)
    return [
        [(v - mean) / math.sqrt(variance + 1e-8) if k else 0.0 for v, k in zip(row, keep, strict=True)]
        for row, keep in zip(values, mask, strict=True)
    ]


def k1_oracle(p: float, q: float) -> float:
    return min(max(p - q, -20.0), 20.0)


def k3_oracle(p: float, q: float) -> float:
    return math.exp(-k1_oracle(p, q)) - 1 + k1_oracle(p, q)


def explained_variance_loop(values: list[float], returns: list[float]) -> float:
    def variance(numbers: list[float]) -> float:
        mean = sum(numbers) / len(numbers)
        return sum((n - mean) ** 2 for n in numbers) / len(numbers)

    return 1 - variance([r - v for r, v in zip(returns, values, strict=True)]) / variance(returns)


def close(actual: Tensor, expected: object, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(
        actual.double(), torch.tensor(expected, dtype=torch.float64), rtol=tolerance, atol=tolerance
    )


@quick
@given(shapes)
def test_whiten_equals_its_loop_and_centres(shape: tuple[int, int, int]) -> None:
    values, _, mask = table(shape, 3.0)
    white = maths.whiten(values, mask)
    close(white, whiten_loop(values.tolist(), mask.tolist()))
    assert float(white[~mask].abs().sum()) == 0.0
    assert abs(float(maths.masked_mean(white, mask))) < 1e-5
    if float(values[mask].std(unbiased=False)) > 1e-2:
        assert float(white[mask].std(unbiased=False)) == pytest.approx(1.0, abs=1e-3)


def test_whiten_of_equal_values_is_zero() -> None:
    mask = torch.tensor([[True, True], [True, False]])
    assert float(maths.whiten(torch.full((2, 2), 3.7), mask).abs().max()) == 0.0


@quick
@given(shapes, st.integers(1, 4))
def test_padding_and_what_it_holds_change_nothing(shape: tuple[int, int, int], extra: int) -> None:
    values, other, mask = table(shape)
    junk = torch.full((values.shape[0], extra), float("nan"))
    wide, wide_other = torch.cat([values, junk], 1), torch.cat([other, junk], 1)
    wide_mask = torch.cat([mask, torch.zeros_like(junk, dtype=torch.bool)], 1)
    close(maths.whiten(wide, wide_mask)[:, : values.shape[1]], maths.whiten(values, mask).tolist())
    assert float(maths.masked_mean(wide, wide_mask)) == pytest.approx(float(maths.masked_mean(values, mask)), abs=1e-6)
    close(maths.response_sums(wide, wide_mask), maths.response_sums(values, mask).tolist())
    weights = maths.truncated_importance_weights(wide, wide_other, wide_mask, 2.0)
    close(weights[:, : values.shape[1]], maths.truncated_importance_weights(values, other, mask, 2.0).tolist())
    assert torch.equal(
        maths.trusted_sequences(wide, wide_other, wide_mask, 0.9, 1.1),
        maths.trusted_sequences(values, other, mask, 0.9, 1.1),
    )


@quick
@given(shapes)
def test_k3_equals_its_loop(shape: tuple[int, int, int]) -> None:
    logprobs, ref, _ = table(shape, 2.0)
    expected = [
        [k3_oracle(p, q) for p, q in zip(*rows, strict=True)]
        for rows in zip(logprobs.tolist(), ref.tolist(), strict=True)
    ]
    close(maths.kl_k3(logprobs, ref), expected)


def test_kl_estimates_stay_finite() -> None:
    far, near = torch.tensor([-1e4, 0.0]), torch.tensor([0.0, -1e4])
    assert bool(maths.kl_k3(far, near).isfinite().all())
    close(maths.log_ratio(far, near), [-20.0, 20.0])


@pytest.mark.parametrize("estimate", [maths.log_ratio, maths.kl_k3])
def test_k1_and_k3_are_unbiased_values(estimate: Callable[[Tensor, Tensor], Tensor]) -> None:
    policy, reference = torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.2, 0.3, 0.5]).log()
    exact = float((policy.exp() * (policy - reference)).sum())
    assert float((policy.exp() * estimate(policy, reference)).sum()) == pytest.approx(exact, abs=1e-6)


@quick
@given(shapes)
def test_explained_variance_equals_its_loop(shape: tuple[int, int, int]) -> None:
    values, returns, mask = table(shape)
    if int(mask.sum()) < 2:
        return
    expected = explained_variance_loop(values[mask].tolist(), returns[mask].tolist())
    assert maths.explained_variance(values, returns, mask) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_explained_variance_of_constant_returns_is_zero() -> None:
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert maths.explained_variance(torch.randn(1, 3), torch.ones(1, 3), mask) == 0.0
    assert maths.explained_variance(torch.arange(3.0)[None], torch.arange(3.0)[None], mask) == 1.0


def test_importance_weights_are_truncated_and_detached() -> None:
    old = torch.tensor([[0.0, -1.0, -5.0]], requires_grad=True)
    sampler = torch.tensor([[-0.5, -3.0, 0.0]])
    mask = torch.tensor([[True, True, True]])
    weights = maths.truncated_importance_weights(old, sampler, mask, cap=2.0)
    close(weights, [[math.exp(0.5), 2.0, math.exp(-5.0)]])
    assert not weights.requires_grad


def test_geometric_mask_does_not_shrink_with_length() -> None:
    """A mean log-ratio of .01 passes at every length; the product of ratios would be 2.7 at 100 tokens."""
    for length in (1, 10, 100):
        mask = torch.ones(2, length, dtype=torch.bool)
        old = torch.zeros(2, length)
        sampler = torch.stack([torch.full((length,), -0.01), torch.full((length,), -0.2)])
        assert maths.trusted_sequences(old, sampler, mask, 0.9, 1.1).tolist() == [True, False]


def test_synthetic_mismatch_is_corrected() -> None:
    """Samples of a slightly wrong sampler, reweighted, have the mean of the trainer's distribution."""
    generator = torch.Generator().manual_seed(0)
    trainer, sampler = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.4, 0.4, 0.2])
    payoff = torch.tensor([1.0, -1.0, 0.5])
    drawn = torch.multinomial(sampler, 200_000, replacement=True, generator=generator)[:, None]
    mask = torch.ones_like(drawn, dtype=torch.bool)
    weights = maths.truncated_importance_weights(trainer.log()[drawn], sampler.log()[drawn], mask, 2.0)
    exact = float((trainer * payoff).sum())
    assert float((weights * payoff[drawn]).mean()) == pytest.approx(exact, abs=0.01)
    assert abs(float(payoff[drawn].mean()) - exact) > 0.1
