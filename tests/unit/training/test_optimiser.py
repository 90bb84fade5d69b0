"""One step is torch's AdamW on clipped gradients; schedules against formulas written out."""

import math

import pytest
import torch
from ippo_trainer.training.optimiser import Optimiser
from ippo_trainer.training.schedule import Schedule
from torch import Tensor, nn


def adamw_by_hand(weight: Tensor, gradients: list[Tensor], rates: list[float], decay: float) -> Tensor:
    """Algorithm 2 of arXiv 1711.05101 in float64, with gradients clipped to norm 1."""
    value, first, second = weight.double(), torch.zeros_like(weight).double(), torch.zeros_like(weight).double()
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        clipped = gradient.double() * min(1.0, 1.0 / float(gradient.double().norm()))
        first = 0.9 * first + 0.1 * clipped
        second = 0.999 * second + 0.001 * clipped.square()
        update = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        value = value * (1 - rate * decay) - rate * update
    return value


@pytest.mark.parametrize("size", [0.1, 30.0])
def test_steps_are_adamw_on_clipped_gradients(size: float) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = nn.Parameter(torch.randn(4, 3, generator=generator))
    start, optimiser = weight.detach().clone(), Optimiser([weight], 0.05, decay=0.1)
    gradients = [size * torch.randn(4, 3, generator=generator) for _ in range(5)]
    shares = [0.2, 0.6, 1.0, 0.5, 0.1]
    for gradient, share in zip(gradients, shares, strict=True):
        weight.grad = gradient.clone()
        assert optimiser.step(share) == pytest.approx(float(gradient.norm()), rel=1e-5)
        assert weight.grad is None
    expected = adamw_by_hand(start, gradients, [0.05 * share for share in shares], 0.1)
    assert (weight.detach().double() - expected).abs().max() < 1e-6


def test_vectors_do_not_decay() -> None:
    matrix, vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    optimiser = Optimiser([matrix, vector], 0.1, decay=0.5)
    matrix.grad, vector.grad = torch.zeros(2, 2), torch.zeros(2)
    optimiser.step()
    assert torch.equal(vector.detach(), torch.ones(2))
    assert matrix.detach() == pytest.approx(torch.full((2, 2), 0.95))


@pytest.mark.parametrize(("steps", "final"), [(1, 0.0), (7, 0.1), (200, 0.0), (1000, 0.1)])
def test_a_fit_rises_over_a_twentieth_and_falls_to_its_final_share(steps: int, final: float) -> None:
    schedule, rise = Schedule.of_fit(steps, final), max(1, round(0.05 * steps))
    shares = [schedule.share(step) for step in range(steps)]
    for step, share in enumerate(shares):
        if step < rise:
            assert share == pytest.approx((step + 1) / rise)
        else:
            cosine = math.cos(math.pi * (step - rise) / (steps - rise))
            assert share == pytest.approx(final + (1 - final) * (1 + cosine) / 2)
    assert max(shares) == 1.0
    assert schedule.share(steps) == pytest.approx(final if steps > rise else 1.0)


def test_rise_and_fall_may_overlap() -> None:
    schedule = Schedule(10, rise=3, final=0.1)
    for step in range(10):
        cosine = 0.1 + 0.9 * (1 + math.cos(math.pi * step / 10)) / 2
        assert schedule.share(step) == pytest.approx(min(1.0, (step + 1) / 3) * cosine)
