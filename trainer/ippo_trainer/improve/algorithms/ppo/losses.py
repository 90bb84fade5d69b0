"""PPO's losses per token, and their one way of being summed up. Shapes and masks as in `ippo_trainer.improve.maths`."""

from typing import NamedTuple

import torch
from torch import Tensor

from ippo_trainer.improve.maths import log_ratio, only


class PolicyLoss(NamedTuple):
    """(B, T) each, zero where masked; all but `loss` without gradient."""

    loss: Tensor
    clipped_low: Tensor
    """Bool: A < 0 and the ratio was below 1 - clip_low, so that the gradient is zero."""
    clipped_high: Tensor
    """Bool: A > 0 and the ratio was above 1 + clip_high."""
    dual_clipped: Tensor
    """Bool: A < 0 and the ratio was above the dual clip."""


def clipped_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float,
) -> PolicyLoss:
    """-min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A), and for A < 0 never above dual_clip * |A|.

    PPO (arXiv 1707.06347, equation 7), with the upper clip of its own of DAPO (arXiv 2503.14476) and the dual clip of
    arXiv 1912.09729, which bounds the loss where a bad token became much likelier.
    """
    ratio = log_ratio(logprobs, old_logprobs).exp()
    plain = -advantages * ratio
    pessimistic = torch.maximum(plain, -advantages * ratio.clamp(1.0 - clip_low, 1.0 + clip_high))
    bounded = torch.minimum(pessimistic, -advantages * dual_clip)
    loss = torch.where(advantages < 0, bounded, pessimistic)
    with torch.no_grad():
        low = mask & (advantages < 0) & (ratio < 1.0 - clip_low)
        high = mask & (advantages > 0) & (ratio > 1.0 + clip_high)
        dual = mask & (advantages < 0) & (ratio > dual_clip)
    return PolicyLoss(only(loss, mask), low, high, dual)


def value_loss(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Half the squared error (B, T), unclipped."""
    return only(0.5 * (values - returns).square(), mask)


def aggregate(token_losses: Tensor, token_count: int | float) -> Tensor:
    """Sum over tokens / `token_count`, the number of tokens of the whole minibatch (DAPO's token-level loss).

    Called with the same count on every micro-batch, the gradients add up to those of the undivided minibatch.
    """
    return token_losses.sum() / token_count
