"""The sampler that is always there: our own forwards of the model in this process."""

from collections.abc import Sequence
from typing import Any

from ippo_trainer.models.cache import PrefixMemory
from ippo_trainer.models.sampling import Sampled, Sampling, sample


class TransformersSampler:
    """A `PolicySampler` of a causal LM that `load.load_policy` accepts."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.memory = PrefixMemory()

    def take(self, policy: Any) -> None:
        """As `PolicySampler`."""
        self.policy = policy
        self.begin()

    def begin(self) -> None:
        """As `PolicySampler`."""
        self.memory = PrefixMemory()

    def twin(self) -> "TransformersSampler":
        """As `PolicySampler`."""
        return TransformersSampler(self.policy)

    def sample(
        self,
        prompts: Sequence[list[int]],
        keys: Sequence[int],
        sampling: Sampling,
        slots: Sequence[int] | None = None,
    ) -> list[list[Sampled]]:
        """As `PolicySampler`."""
        return sample(self.policy, prompts, keys, sampling, None if slots is None else self.memory, slots)
