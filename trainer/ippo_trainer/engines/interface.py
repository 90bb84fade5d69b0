"""What a sampler is: prompts in, responses with their log-probabilities out. Rollouts and improve ask nothing else."""

from collections.abc import Sequence
from typing import Any, Protocol, Self

from ippo_trainer.models.sampling import Sampled, Sampling


class PolicySampler(Protocol):
    """Samples the responses of one policy."""

    def take(self, policy: Any) -> None:
        """From now on the policy is this causal LM, as it is now; of the architecture of the one before."""
        ...

    def begin(self) -> None:
        """Forgets what it remembers of prompts: what was sampled before must not even change the rounding."""
        ...

    def twin(self) -> Self:
        """A sampler of the same policy that remembers other prompts."""
        ...

    def sample(
        self,
        prompts: Sequence[list[int]],
        keys: Sequence[int],
        sampling: Sampling,
        slots: Sequence[int] | None = None,
    ) -> list[list[Sampled]]:
        """Samples responses to prompts.

        Args:
            prompts: token ids, none empty.
            keys: one 63-bit key per prompt; equal keys give equal randomness, whatever else is sampled with it.
            sampling: see there. Log-probabilities are those of what is sampled from, temperature and min-p included.
            slots: by prompt, whose earlier prompt and response it probably extends, e.g. the conversation's number.
                None where nothing is worth remembering.

        Returns:
            By prompt, `sampling.samples` responses.

        Raises:
            TryAgainError: an engine of its own has died.
        """
        ...
