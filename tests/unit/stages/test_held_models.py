"""What a stage is said to hold of its models (`models.needs`) is what it holds."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from ippo_trainer.contract import params
from ippo_trainer.contract.algorithms import BY_TRL
from ippo_trainer.contract.spec import ArtifactRef, StageSpec
from ippo_trainer.models import load, needs
from ippo_trainer.store.artifact import read_manifest

from tests.kit.live_tensors import alive

NOISE = 0.15
"""Of the least model: tensors of data, norms of gradients and the like."""


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each input's weights were loaded."""
    counted: Counter[str] = Counter()
    plain = load._load

    def counting(factory: Any, directory: Path) -> Any:
        counted[directory.name] += 1
        return plain(factory, directory)

    monkeypatch.setattr(load, "_load", counting)
    return counted


@pytest.fixture
def peak(young: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What is alive at each step of an optimiser, when gradients and moments are all there."""
    measured = [0]
    step = torch.optim.AdamW.step

    def measuring(self: Any, *rest: Any, **more: Any) -> Any:
        result = step(self, *rest, **more)
        measured[0] = max(measured[0], alive())
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", measuring)
    return measured


WIDE = "tiny:d64-l3"
"""Large beside a batch."""


def inputs_of(world: Any) -> dict[str, ArtifactRef]:
    policy = world.put_policy()
    candidate = world.put_policy(1, "candidate")
    conversations = world.demonstrations(16)
    for number, found in enumerate(conversations):
        found.outcome = number % 2 == 0
    data, q = world.put_data(conversations), world.put_q(policy)
    return {"policy": policy, "candidate": candidate, "explorer": candidate, "q": q, "previousQ": q, "data": data}


SECTIONS: dict[str, dict[str, Any]] = {
    "collect": {"collect": params.Collect(conversations=2, parallelism=1, exploration="0.5")},
    "evaluate": {"evaluate": params.Evaluate(conversations=4)},
    "fit-q": {"fit_q": params.FitQ(epochs=2, holdout="0.5")},
    "fit-q, PreviousQ": {"fit_q": params.FitQ(epochs=2, holdout="0.5", init_from="PreviousQ")},
    "improve": {
        "improve": params.Improve(
            algorithm="PPO", updates=1, critic_warmup_updates=1, batch_size=2, epochs=1, minibatches=1
        )
    },
    "improve, MPO": {"improve": params.Improve(algorithm="MPO", updates=1, batch_size=4)},
    **{
        f"improve, {name}": {"improve": params.Improve(algorithm=name, updates=2, batch_size=2, minibatches=1)}
        for name in BY_TRL
    },
}


def spec_of(world: Any, name: str) -> StageSpec:
    stage, inputs = name.partition(",")[0], inputs_of(world)
    if stage == "collect":
        del inputs["data"]  # it would go on from them
    spec: StageSpec = world.spec(stage, inputs, **SECTIONS[name])
    return spec


@pytest.mark.parametrize("name", SECTIONS)
def test_every_model_that_is_loaded_counts(small_world: Any, loads: Counter[str], name: str) -> None:
    spec = spec_of(small_world, name)
    loads.clear()
    small_world.result(spec)
    assert loads == dict.fromkeys(needs.copies(spec), 1)


@pytest.mark.parametrize("name", [name for name in SECTIONS if name.startswith(("fit-q", "improve"))])
def test_what_is_trained_is_held_as_often_as_it_counts(small_world: Any, peak: list[int], name: str) -> None:
    """As a GPU and its machine would, where weights that are read count: no less, and less than one copy more."""
    small_world.base = WIDE
    spec = spec_of(small_world, name)
    manifests = {found: read_manifest(small_world.store, spec.inputs[found]) for found in needs.copies(spec)}
    weights = {found: needs.memory.stored_bytes(manifest.sizes()) for found, manifest in manifests.items()}
    small_world.result(spec)
    kept = sum(count.kept * weights[found] for found, count in needs.copies(spec).items())
    need = needs.needed(spec, weights, several=False, gpu=True) + kept
    least = min(weights.values())
    assert need - NOISE * least <= peak[0] <= need + (1 + NOISE) * least, (need / least, peak[0] / least)
