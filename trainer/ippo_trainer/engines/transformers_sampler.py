"""The sampler that is always there: our own forwards of the model in this process."""

from collections.abc import Sequence
from typing import Any

from ippo_trainer.models.cache import MEMORY_BYTES, PrefixMemory
from ippo_trainer.models.sampling import Sampled, Sampling, sample


class TransformersSampler:
    """A `PolicySampler` of a causal LM that `load.load_policy` accepts.

    Args:
        policy: the causal LM.
        limit: bytes of what it remembers of prompts; a twin has as many.
        patience: calls for which it remembers a conversation that another agent has.
    """

    def __init__(self, policy: Any, limit: int = MEMORY_BYTES, patience: int = 0) -> None:
        self.policy, self._limit, self._patience = policy, limit, patience
        self.begin()

    def take(self, policy: Any) -> None:
        """As `PolicySampler`."""
        self.policy = policy
        self.begin()

    def begin(self) -> None:
        """As `PolicySampler`."""
        self.memory = PrefixMemory(self._limit, self._patience)

    def twin(self) -> "TransformersSampler":
        """As `PolicySampler`."""
        return TransformersSampler(self.policy, self._limit, self._patience)

    def sample(
        self,
        prompts: Sequence[list[int]],
        keys: Sequence[int],
        sampling: Sampling,
        slots: Sequence[int] | None = None,
    ) -> list[list[Sampled]]:
        """As `PolicySampler`."""
        return sample(self.policy, prompts, keys, sampling, None if slots is None else self.memory, slots)
