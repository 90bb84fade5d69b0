"""What shapes an improvement step whatever its algorithm: the user's `improve` section as numbers, and constants."""

from dataclasses import dataclass

from ippo_trainer.contract.algorithms import AlgorithmName
from ippo_trainer.models.precision import FLOAT32, Precision

RISE_UPDATES = 3
"""Over which a policy's learning rate rises."""
ADAM_EPSILON = 1e-5
"""TensorFlow's placement of epsilon in lm-human-preferences (N implementation details)."""


@dataclass(frozen=True, slots=True)
class ImproveSettings:
    """See `params.Improve` for the fields of that name."""

    algorithm: AlgorithmName
    batch_size: int
    """Conversations per batch."""
    kl_target: float
    """Nats per suggestion."""
    seed: int
    max_tokens: int
    """Tokens of one packed forward; larger batches accumulate gradients."""
    precision: Precision = FLOAT32
    """Of weights and forwards."""
    budget_factor: float = 1.5
    """Updates stop when the KL exceeds the target times this, and the last policy below is kept."""

    @property
    def kl_budget(self) -> float:
        """The most that KL(policy || pi_i) may be, nats per suggestion."""
        return self.budget_factor * self.kl_target
