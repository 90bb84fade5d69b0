"""What shapes PPO: the user's `improve` section as numbers, and the constants behind it."""

from dataclasses import dataclass
from typing import Self

from ippo_trainer.contract import params
from ippo_trainer.models.precision import FLOAT32, Precision


@dataclass(frozen=True, slots=True)
class PPOSettings:
    """See `params.Improve` for the fields of that name. Defaults below cite their source in docs and docstrings."""

    updates: int
    samples_per_state: int
    epochs: int
    minibatches: int
    learning_rate: float
    critic_learning_rate: float
    critic_warmup_updates: int
    kl_target: float
    kl_coefficient: float
    """Least weight, in units of Q per nat."""
    clip_low: float
    clip_high: float
    gae_lambda: float
    entropy_coefficient: float

    dual_clip: float = 3.0
    """arXiv 1912.09729; 3 as in verl and SkyRL."""
    lambda_value: float = 1.0
    """The critic learns from unbiased returns (decoupled GAE, VAPO)."""
    importance_cap: float = 2.0
    """Token-level truncated importance weight between sampler and trainer."""
    trusted_ratio: tuple[float, float] = FLOAT32.trusted_ratio
    """Geometric mean of trainer / sampler outside of which a response does not train."""
    ratio_tolerance: float = FLOAT32.ratio_tolerance
    """How far the first minibatch's ratio may be from 1."""
    update_kl_share: float = 0.05
    """An update ends early when the policy moved by more than this share of the KL target within it."""
    kl_gain: float = 0.5
    """Of the KL weight's controller: at most +-20 % per update times this."""
    kl_strength: float = 1.0
    """Of its proportional part, above the target."""

    @classmethod
    def of(cls, improve: params.Improve, precision: Precision = FLOAT32) -> Self:
        """Reads the decimals of a spec."""
        return cls(
            updates=improve.updates,
            samples_per_state=improve.samples_per_state,
            epochs=improve.epochs,
            minibatches=improve.minibatches,
            learning_rate=float(improve.value("learning_rate")),
            critic_learning_rate=float(improve.value("critic_learning_rate")),
            critic_warmup_updates=improve.critic_warmup_updates,
            kl_target=float(improve.kl_target),
            kl_coefficient=float(improve.kl_coefficient),
            clip_low=float(improve.clip_range),
            clip_high=float(improve.clip_range_high),
            gae_lambda=float(improve.gae_lambda),
            entropy_coefficient=float(improve.entropy_coefficient),
            trusted_ratio=precision.trusted_ratio,
            ratio_tolerance=precision.ratio_tolerance,
        )
