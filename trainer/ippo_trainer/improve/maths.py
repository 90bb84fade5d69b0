"""Masked statistics, a KL estimator and importance weights as pure tensor functions.

Shapes are (B, T): B responses of at most T tokens. `mask` is a bool tensor, true on the tokens of a response, its end
token included. It is made once, from lengths, where responses become tensors; nothing here looks at token ids.
Everything is fp32. What masked positions hold has no influence on any result; results there are zero.
"""

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to it before exp, which keeps fp32 finite (verl, OpenRLHF)."""


def only(values: Tensor, mask: Tensor) -> Tensor:
    """`values` where `mask` holds and 0 elsewhere, even where values are NaN or infinite."""
    return torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of `values` (B, T) over the tokens of `mask`; a scalar."""
    return only(values, mask).sum()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` (B, T) over the tokens of `mask`; 0 where there are none."""
    return masked_sum(values, mask) / mask.sum().clamp_min(1)


def response_sums(values: Tensor, mask: Tensor) -> Tensor:
    """Sums (B,) of `values` (B, T) over each response."""
    return only(values, mask).sum(-1)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Values (B, T) less their mean over their standard deviation, both over all the tokens of the *whole* batch.

    Mean-centred, as in openai/lm-human-preferences (torchtune's variant of the same name adds the mean back). Call it
    before a batch is cut into minibatches. A batch without variance becomes zero.
    """
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean).square(), mask)
    return only((values - mean) * (variance + 1e-8).rsqrt(), mask)


def log_ratio(logprobs: Tensor, other: Tensor) -> Tensor:
    """`logprobs - other`, clamped to +-20; any shape."""
    return (logprobs - other).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Per-sample estimates of KL(policy || reference) from samples of the policy, unbiased, at least 0; any shape.

    k3 = e^-d - 1 + d with d = logprobs - ref_logprobs; d itself is k1, unbiased too (Schulman 2020, Approximating KL
    divergence). Neither is a loss: k1's gradient is zero in expectation, k3's that of KL(reference || policy) (arXiv
    2506.09477).
    """
    difference = log_ratio(logprobs, ref_logprobs)
    return torch.expm1(-difference) + difference


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) over the tokens of `mask`; at most 1.

    0 where the returns do not vary: there is nothing to explain.
    """
    error = returns - values
    residual = masked_mean((error - masked_mean(error, mask)).square(), mask)
    total = masked_mean((returns - masked_mean(returns, mask)).square(), mask)
    return float(1.0 - residual / total) if float(total) > 1e-12 else 0.0


def truncated_importance_weights(old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, cap: float) -> Tensor:
    """Token weights (B, T) = min(trainer's probability / sampler's probability, cap), without gradient.

    They correct for a sampler whose arithmetic differs from the trainer's forward (truncated importance sampling,
    Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy training"; cap 2 as in verl).
    """
    return only(log_ratio(old_logprobs, sampler_logprobs).exp().clamp_max(cap), mask).detach()


def trusted_sequences(old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, low: float, high: float) -> Tensor:
    """(B,) bool: the geometric mean over the response of trainer / sampler lies in [low, high].

    The geometric mean does not shrink with length, as a product of ratios does (TRL #5814). Responses that fail came
    from stale weights or broken sampling and should not train. A response without tokens passes.
    """
    count = mask.sum(-1).clamp_min(1)
    mean = (response_sums(log_ratio(old_logprobs, sampler_logprobs), mask) / count).exp()
    return (mean >= low) & (mean <= high)
