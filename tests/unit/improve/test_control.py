"""The KL weight's controller and the warm-up's end."""

import pytest
import torch
from ippo_trainer.improve.algorithms.ppo.control import (
    adapt_kl_coefficient,
    first_kl_coefficient,
    has_plateaued,
    kl_pressure,
)


@pytest.mark.parametrize(
    ("kl", "gain", "expected"),
    [(1.0, 1.0, 0.1), (2.0, 1.0, 0.12), (1.1, 1.0, 0.11), (0.0, 1.0, 0.08), (9.0, 2.0, 0.14), (0.9, 0.5, 0.095)],
)
def test_controller_by_hand(kl: float, gain: float, expected: float) -> None:
    assert adapt_kl_coefficient(0.1, kl, 1.0, gain) == pytest.approx(expected)


def test_controller_finds_the_coefficient_that_meets_the_target() -> None:
    """A plant whose KL falls with the weight as 1 / weight^2 settles at the weight that gives the target."""
    coefficient = 0.01
    for _ in range(200):
        coefficient = adapt_kl_coefficient(coefficient, 0.25 / coefficient**2, 1.0, 0.5)
    assert coefficient == pytest.approx(0.5, rel=1e-3)


def test_plateau() -> None:
    assert not has_plateaued([0.1, 0.5, 0.5], window=2, tolerance=0.01)
    assert not has_plateaued([0.0, 0.1, 0.4, 0.5], window=2, tolerance=0.01)
    assert has_plateaued([0.0, 0.5, 0.5, 0.5, 0.5], window=2, tolerance=0.01)
    assert has_plateaued([0.5, 0.4, 0.3, 0.2], window=2, tolerance=0.01)


def test_first_weight_puts_the_optimum_at_the_target() -> None:
    """pi ~ exp(R / b) over many actions with Gaussian rewards is the target's number of nats from uniform."""
    rewards = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.3
    for target in (0.1, 1.0, 2.0):
        policy = (rewards / first_kl_coefficient(0.3, target)).log_softmax(0)
        kl = float((policy.exp() * policy).sum()) + float(torch.tensor(400_000.0).log())
        assert kl == pytest.approx(target, rel=0.05)


def test_pressure_acts_above_the_target_only() -> None:
    assert kl_pressure(0.3, 1.0, 2.0) == kl_pressure(1.0, 1.0, 2.0) == 1.0
    assert kl_pressure(1.5, 1.0, 2.0) == pytest.approx(2.71828, rel=1e-5)
