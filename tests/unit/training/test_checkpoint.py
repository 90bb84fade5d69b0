"""What is trained, its moments and its facts come back bit-equal, also where only some of it is trained."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from ippo_trainer.training import checkpoint
from ippo_trainer.training.checkpoint import StatePart, Weights, WeightsSnapshot
from ippo_trainer.training.optimiser import Optimiser
from torch import Tensor, nn


class Training:
    """A linear map in training, with a snapshot of it."""

    def __init__(self, seed: int, steps: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.module = nn.Linear(3, 2)
        self.optimiser = Optimiser(self.module.parameters(), 0.1, decay=0.01)
        self.best = WeightsSnapshot(self.module)
        self.figures: list[float] = []
        self.step(steps)

    def step(self, steps: int) -> None:
        for _ in range(steps):
            loss = self.module(torch.ones(1, 3)).square().sum()
            loss.backward()
            self.optimiser.step()
            self.figures.append(float(loss.detach()))

    def parts(self) -> Mapping[str, StatePart]:
        return {"module": Weights(self.module), "optimiser": self.optimiser, "best": self.best}

    def facts(self) -> dict[str, Any]:
        return {"figures": self.figures, "about": "rows keep the order of their fields"}

    def restore(self, facts: dict[str, Any]) -> None:
        self.figures = facts["figures"]

    def weights(self) -> Tensor:
        return torch.cat([value.detach().flatten() for value in self.module.parameters()])


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_training_goes_on_as_if_nothing_had_happened(tmp_path: Path, steps: int) -> None:
    whole, first = Training(1, 5), Training(1, steps)
    checkpoint.save(tmp_path, first)
    resumed = Training(2)
    assert checkpoint.load(tmp_path, resumed)
    resumed.step(5 - steps)
    assert torch.equal(whole.weights(), resumed.weights())
    assert whole.figures == resumed.figures
    assert list(json.loads((tmp_path / "facts.json").read_text())["facts"]) == ["figures", "about"]


def test_a_snapshot_is_what_the_module_was_and_survives_a_checkpoint(tmp_path: Path) -> None:
    training = Training(1, 2)
    then = training.weights().clone()
    assert not training.best
    training.best.take()
    training.step(2)
    assert not torch.equal(training.weights(), then)
    checkpoint.save(tmp_path, training)
    resumed = Training(2)
    checkpoint.load(tmp_path, resumed)
    for each in (training, resumed):
        assert each.best
        each.best.put_back()
        assert torch.equal(each.weights(), then)


def test_only_what_is_trained_is_written_and_tied_weights_once(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    module[1].weight = module[0].weight
    module[2].requires_grad_(False)
    path = tmp_path / "module.safetensors"
    checkpoint.save_part(path, Weights(module))
    assert path.stat().st_size < 2 * 4 * 16 + 200
    other = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    other[1].weight = other[0].weight
    before = other[2].weight.clone()
    checkpoint.load_part(path, Weights(other))
    assert torch.equal(other[0].weight, module[0].weight)
    assert torch.equal(other[2].weight, before)


@pytest.mark.parametrize("content", [None, {"facts": {"figures": [1.0]}}, {"format": 1, "facts": {"figures": [1.0]}}])
def test_a_checkpoint_of_another_format_is_left_alone(tmp_path: Path, content: Any) -> None:
    checkpoint.save(tmp_path, Training(1, 3))
    (tmp_path / "facts.json").unlink()
    if content is not None:
        (tmp_path / "facts.json").write_text(json.dumps(content))
    training = Training(2, 1)
    before = training.weights().clone()
    assert not checkpoint.load(tmp_path, training)
    assert torch.equal(training.weights(), before)
    assert len(training.figures) == 1


def test_facts_that_json_cannot_hold_are_no_checkpoint(tmp_path: Path) -> None:
    training = Training(1)
    training.figures = [float("inf")]
    with pytest.raises(ValueError, match="not JSON compliant"):
        checkpoint.save(tmp_path, training)
    assert not (tmp_path / "facts.json").exists()
