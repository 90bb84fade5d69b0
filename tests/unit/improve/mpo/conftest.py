"""The toy of the PPO tests, improved by MPO."""

from dataclasses import replace
from typing import Any

import pytest
from ippo_trainer.contract import params
from ippo_trainer.improve.algorithms.mpo import MPO
from ippo_trainer.improve.heldout import HeldOut
from ippo_trainer.improve.improvement import Improvement

from tests.unit.improve.conftest import SECTION, Toy

SETTINGS = params.Mpo(
    conversations=9,
    own_candidates=8,
    explored_candidates=8,
    explorer_share="0.2",
    epochs=4,
    batch_size=3,
    learning_rate="0.01",
    least_temperature="0.001",
)


def training(max_tokens: int = 4096, kl_target: float = 1.0, **changes: Any) -> Improvement:
    """Of a new toy, whose explorer is the policy, flattened; the probe is the last three conversations."""
    texts = {name: str(value) if isinstance(value, float) else value for name, value in changes.items()}
    section = SECTION.model_copy(update={"mpo": SETTINGS.model_copy(update=texts), "kl_target": str(kl_target)})
    toy = Toy(section, max_tokens=max_tokens)
    task = toy.task()
    algorithm = MPO(task)
    algorithm.settings = replace(algorithm.settings, proposal_batch=4)
    return Improvement(task, algorithm, HeldOut(toy.sampler, toy.states, range(9, 12), 3, "probe"))


@pytest.fixture
def make_training() -> Any:
    """`training`."""
    return training
