"""From one score per response to advantages per token: reward scale, token rewards and GAE.

Shapes and masks as in `ippo_trainer.improve.maths`. The discount between *turns* lives in Q's targets only
(`qfit/targets.py`, `qfit/least_squares.py`); that between tokens is 1, or long suggestions would be punished twice.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ippo_trainer.contract.params import Model
from ippo_trainer.improve.maths import log_ratio, only


class RewardNormaliser(Model):
    """Affine map of Q scores to mean 0 and standard deviation 1 under pi_i, then a clip.

    Fitted once per cycle on samples of pi_i and frozen: a moving scale would change the objective under way (N
    implementation details of RLHF). Rewards do not change when Q becomes a * Q + b with a > 0.
    """

    mean: float
    scale: float
    """Standard deviation; 0 where Q is the same for everything, and then every reward is 0."""
    limit: float = 10.0
    """Rewards are clipped to +-limit (OpenRLHF)."""

    @classmethod
    def fit(cls, scores: Tensor) -> "RewardNormaliser":
        """Statistics of scores (n,), taken in float64."""
        values = scores.double()
        mean = values.mean()
        scale = (values - mean).square().mean().sqrt()
        # Rounding noise of equal fp32 scores is no signal.
        floor = 1e-6 * values.abs().max()
        return cls(mean=float(mean), scale=float(scale) if float(scale) > float(floor) else 0.0)

    def __call__(self, scores: Tensor) -> Tensor:
        """Rewards (n,), fp32, of scores (n,)."""
        if self.scale == 0.0:
            return torch.zeros_like(scores, dtype=torch.float32)
        return ((scores.double() - self.mean) / self.scale).clamp(-self.limit, self.limit).float()


def penalise_truncated(rewards: Tensor, ended: Tensor) -> Tensor:
    """Rewards (B,) with those of responses that did not end lowered to min(reward, 0) - 1.

    Q never saw a response without an end, so a good score of one means nothing: it counts as average at best, and one
    standard deviation less. Its end is terminal all the same, nothing is bootstrapped (TRL's
    missing-EOS penalty, N+ details' EOS trick).

    Args:
        ended: (B,) bool, whether the sampler drew a stop token.
    """
    return torch.where(ended, rewards, rewards.clamp_max(0.0) - 1.0)


def token_rewards(
    rewards: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, kl_coefficient: float
) -> Tensor:
    """Rewards (B, T) per token: -kl_coefficient * k1 on every token, plus the response's reward on its last one.

    k1 = logprobs - ref_logprobs is detached: through the return it gives the exact gradient of the KL between whole
    responses, as a loss it would give none (arXiv 2506.09477).

    Args:
        rewards: (B,) one per response.
        logprobs: (B, T) of the policy that sampled; natural logarithm.
        ref_logprobs: (B, T) of pi_i.
    """
    penalty = only(log_ratio(logprobs, ref_logprobs).detach(), mask)
    result = -kl_coefficient * penalty
    columns = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, columns, -1).amax(-1)
    rows = (last >= 0).nonzero().squeeze(-1)
    result[rows, last[rows]] += rewards[rows].to(result.dtype)
    return result


class Credit(NamedTuple):
    """(B, T) each, zero where masked."""

    advantages: Tensor
    """Of the policy: GAE with lambda_policy, not whitened."""
    returns: Tensor
    """The critic's targets: lambda_value returns."""


def generalised_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, lambda_policy: float, lambda_value: float
) -> Credit:
    """GAE (arXiv 1506.02438) with separate lambdas for policy and critic (decoupled GAE, VC-PPO, arXiv 2503.01491).

    Masked tokens, trailing or in between, are skipped: the next value and the accumulators are carried over them, so
    the result equals that of the compressed sequence. What follows the last token is terminal, its value is 0.

    Args:
        rewards: (B, T) reward for each token.
        values: (B, T) value of the state *before* each token.
    """
    batch, length = rewards.shape
    following = torch.zeros(batch, dtype=rewards.dtype, device=rewards.device)
    for_policy, for_value = following, following
    advantages, returns = torch.zeros_like(rewards), torch.zeros_like(rewards)
    for t in reversed(range(length)):
        here = mask[:, t]
        delta = rewards[:, t] + following - values[:, t]
        for_policy = torch.where(here, delta + lambda_policy * for_policy, for_policy)
        for_value = torch.where(here, delta + lambda_value * for_value, for_value)
        following = torch.where(here, values[:, t], following)
        advantages[:, t] = for_policy
        returns[:, t] = for_value + following
    return Credit(only(advantages, mask), only(returns, mask))
