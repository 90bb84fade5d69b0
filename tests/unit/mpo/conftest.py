"""The toy of the PPO tests, improved by MPO."""

from dataclasses import replace
from typing import Any

import pytest
from ippo_trainer.models.sampling import Sampling
from ippo_trainer.mpo.candidates import Source
from ippo_trainer.mpo.settings import Settings
from ippo_trainer.mpo.trainer import WeightedLikelihood
from ippo_trainer.ppo.heldout import HeldOut
from ippo_trainer.ppo.trainer import frozen_copy

from tests.unit.ppo.conftest import PAD, STOP, Toy

SETTINGS = Settings(
    conversations=9,
    own_candidates=8,
    explored_candidates=8,
    explorer_share=0.2,
    epochs=4,
    batch_size=3,
    learning_rate=0.01,
    least_temperature=0.001,
    kl_target=1.0,
    seed=3,
    max_tokens=4096,
    proposal_batch=4,
)


class MpoToy(Toy):
    """Its explorer is the policy, flattened."""

    def training(self, **changes: Any) -> WeightedLikelihood:
        """A new one on the toy's policy; the probe is the last three conversations."""
        reference = frozen_copy(self.policy)
        own = Sampling(8, 6, 1.0, {STOP}, PAD)
        sources = (
            Source(reference, own, "own"),
            Source(reference, replace(own, temperature=3.0, min_p=0.02), "explored"),
        )
        probe = HeldOut(self.sampler, self.states, range(9, 12), 3, "probe")
        return WeightedLikelihood(self.policy, sources, self.q, self.states, probe, replace(SETTINGS, **changes))


@pytest.fixture
def make_training() -> Any:
    """A function from changed settings to a training of a new toy."""
    return lambda **changes: MpoToy().training(**changes)
