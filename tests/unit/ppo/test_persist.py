"""State on disk comes back bit-equal."""

from pathlib import Path

import torch
from ippo_trainer.ppo.persist import (
    load_facts,
    load_module,
    load_optimiser,
    save_facts,
    save_module,
    save_optimiser,
)
from torch import nn


def trained(seed: int, steps: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(module.parameters(), lr=0.1, fused=True)
    step(module, optimiser, steps)
    return module, optimiser


def step(module: nn.Module, optimiser: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        module(torch.ones(1, 3)).square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()


def test_training_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole, _ = trained(1, 5)
    module, optimiser = trained(1, 3)
    save_module(tmp_path / "m", module)
    save_optimiser(tmp_path / "o", optimiser)
    resumed, fresh = trained(2, 0)
    load_module(tmp_path / "m", resumed)
    load_optimiser(tmp_path / "o", fresh)
    step(resumed, fresh, 2)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_optimiser_that_never_stepped(tmp_path: Path) -> None:
    save_optimiser(tmp_path / "o", trained(1, 0)[1])
    module, optimiser = trained(1, 0)
    load_optimiser(tmp_path / "o", optimiser)
    step(module, optimiser, 1)
    assert torch.equal(next(module.parameters()), next(trained(1, 1)[0].parameters()))


def test_floats_come_back_exactly(tmp_path: Path) -> None:
    facts = {"a": 0.1 + 0.2, "b": [1e-300, 2.5]}
    save_facts(tmp_path / "f", facts)
    assert load_facts(tmp_path / "f") == facts
