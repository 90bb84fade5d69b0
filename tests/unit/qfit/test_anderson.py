"""Anderson acceleration: against what linear algebra says of linear maps, and where maps bend."""

import pytest
import torch
from ippo_trainer.qfit.anderson import WINDOW, Accelerator
from torch import Tensor


def contraction(seed: int, size: int, radius: float) -> tuple[Tensor, Tensor]:
    """A and b of x -> A x + b."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(size, size, generator=generator, dtype=torch.double)
    matrix *= radius / float(torch.linalg.eigvals(matrix).abs().max())
    return matrix, torch.randn(size, generator=generator, dtype=torch.double)


@pytest.mark.parametrize("radius", [0.5, 0.95, 0.999])
def test_a_linear_map_takes_as_many_steps_as_it_has_dimensions(radius: float) -> None:
    """Several at once, each on its own; plain steps at .999 would take thousands."""
    maps = [contraction(seed, WINDOW - 2, radius) for seed in range(3)]
    solutions = torch.stack([torch.linalg.solve(torch.eye(len(shift)) - matrix, shift) for matrix, shift in maps])
    point, ahead = torch.zeros_like(solutions), Accelerator()
    for _ in range(WINDOW + 2):
        image = torch.stack([matrix @ row + shift for (matrix, shift), row in zip(maps, point, strict=True)])
        point = ahead.next(point, image)
    torch.testing.assert_close(point, solutions, rtol=1e-4, atol=1e-6)


def test_one_that_has_arrived_stays_while_others_go_on() -> None:
    matrix, shift = contraction(1, 4, 0.9)
    solution = torch.linalg.solve(torch.eye(4, dtype=torch.double) - matrix, shift)
    point, ahead = torch.stack([solution, torch.zeros(4, dtype=torch.double)]), Accelerator()
    for _ in range(12):
        point = ahead.next(point, point @ matrix.T + shift)
        torch.testing.assert_close(point[0], solution)
    torch.testing.assert_close(point[1], solution, rtol=1e-5, atol=1e-7)


def test_a_map_that_bends_is_followed() -> None:
    """Values kept within 0 and 1: the fixed point has some of them at a bound."""
    matrix, shift = contraction(2, 6, 0.95)
    point, ahead = torch.zeros(1, 6, dtype=torch.double), Accelerator()
    expected = torch.zeros(6, dtype=torch.double)
    for _ in range(2000):
        expected = (0.5 * matrix @ expected + shift).clamp(0, 1)
    for _ in range(60):
        point = ahead.next(point, (0.5 * point @ matrix.T + shift).clamp(0, 1))
    torch.testing.assert_close(point[0], expected, rtol=1e-6, atol=1e-8)
    assert bool(((expected == 0) | (expected == 1)).any())


def test_what_is_not_finite_is_the_maps_own() -> None:
    ahead = Accelerator()
    for value in (1.0, float("inf"), float("nan")):
        image = torch.full((1, 2), value, dtype=torch.double)
        assert ahead.next(torch.zeros(1, 2, dtype=torch.double), image).shape == (1, 2)
