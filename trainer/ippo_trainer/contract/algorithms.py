"""The algorithms of `improve`, and what each holds: plans of memory and of processes, and rules, ask here."""

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

AlgorithmName = Literal["PPO", "MPO", "MPOThenPPO", "GRPO", "RLOO"]


class Holdings(NamedTuple):
    """What an algorithm holds besides the policy in training, and what it runs on."""

    critic: bool = False
    """Trains a copy of Q, too."""
    explorer: bool = False
    """Reads the explorer."""
    parked: bool = False
    """pi_i and Q are read once a batch, and wait in main memory meanwhile."""
    twice: bool = False
    """Trains the policy with two optimisers, one after the other."""
    own_loop: bool = True
    """Samples and trains in batches of bounded memory, on as many processes as there are; else trl's trainer does."""
    engine: bool = False
    """Has use for vLLM: it samples from the policy in every update, and from nothing else."""

    @property
    def trained(self) -> int:
        """Models of the policy's size in training, the policy among them."""
        return 1 + self.critic + self.twice  # an optimiser is about half of a model in training

    @property
    def read(self) -> int:
        """Frozen models of that size that stay beside them."""
        return 0 if self.parked else 2 + self.explorer


ALGORITHMS: Mapping[AlgorithmName, Holdings] = {
    "PPO": Holdings(critic=True, parked=True, engine=True),
    "MPO": Holdings(explorer=True),
    "MPOThenPPO": Holdings(critic=True, explorer=True, twice=True),
    "GRPO": Holdings(own_loop=False),
    "RLOO": Holdings(own_loop=False),
}
BY_TRL: tuple[AlgorithmName, ...] = tuple(name for name in get_args(AlgorithmName) if not ALGORITHMS[name].own_loop)
"""Those that trl's trainers carry out, on one process."""
WITH_ENGINE: tuple[AlgorithmName, ...] = tuple(name for name in get_args(AlgorithmName) if ALGORITHMS[name].engine)
"""Those that vLLM may sample for."""
