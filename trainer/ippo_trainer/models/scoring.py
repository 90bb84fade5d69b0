"""Log-probabilities of response tokens, without the logits of all of them at once."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ippo_trainer.models.kernels import product
from ippo_trainer.models.packing import PackedBatch, hidden_states
from ippo_trainer.models.parts import decoder

CHUNK_LOGITS = 1 << 24
"""Logits held at once on a CPU: 64 MiB in fp32."""
_DEVICE_CHUNK_LOGITS = 1 << 26


class TokenScores(NamedTuple):
    """Of each of the T response tokens, fp32: its log-probability and the entropy of the distribution it came from."""

    logprobs: Tensor
    entropy: Tensor


def token_logprobs(
    model: Any, packed: PackedBatch, temperature: float = 1.0, chunk_logits: int | None = None
) -> TokenScores:
    """Log-probabilities, at a temperature, of every response token under a causal LM; differentiable.

    Args:
        model: a causal LM whose logits are `get_output_embeddings()(hidden)`, which `load_policy` verifies.
        packed: the batch.
        temperature: logits are divided by it, as the sampler does.
        chunk_logits: at most about this many logits exist at once, also in the backward pass (they are recomputed);
            None takes what suits the device.

    Returns:
        (T,) fp32 log-probabilities and entropies in nats.
    """
    states = hidden_states(decoder(model), packed)
    return score_tokens(
        states[packed.predict_index], model.get_output_embeddings(), packed.tokens, temperature, chunk_logits
    )


def score_tokens(
    states: Tensor, head: Any, tokens: Tensor, temperature: float = 1.0, chunk_logits: int | None = None
) -> TokenScores:
    """Scores `tokens` (T,) given the hidden states (T, D) that predict them; see `token_logprobs`."""
    on_device = states.device.type != "cpu"
    limit = chunk_logits or (_DEVICE_CHUNK_LOGITS if on_device else CHUNK_LOGITS)
    chunk = max(1, limit // int(head.weight.shape[0]))
    if type(head) is nn.Linear and (on_device or states.dtype != torch.float32):
        scores: Any = _Scores.apply(states, head.weight, head.bias, tokens, temperature, chunk)  # type: ignore[no-untyped-call]
        return TokenScores(*scores)
    if len(tokens) <= chunk:
        return TokenScores(*_score(states, head, tokens, temperature))
    pieces: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(tokens), chunk):
        part = (states[start : start + chunk], head, tokens[start : start + chunk], temperature)
        pieces.append(checkpoint(_score, *part, use_reentrant=False) if torch.is_grad_enabled() else _score(*part))
    return TokenScores(torch.cat([piece[0] for piece in pieces]), torch.cat([piece[1] for piece in pieces]))


def _score(states: Tensor, head: Any, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logits = head(states).float() / temperature
    total = logits.logsumexp(-1)
    logprobs = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - total
    # H = log Z - E[logit]; an impossible token (logit -inf) has probability 0 and must not make a NaN.
    entropy = total - (logits.softmax(-1) * logits.clamp_min(torch.finfo(torch.float32).min)).sum(-1)
    return logprobs, entropy


class _Scores(torch.autograd.Function):
    """`_score` of a linear head, chunk by chunk, with a backward that knows the softmax.

    With z = log p, per token: d logprob / d logit_j = [j is the token] - p_j, and d entropy / d logit_j =
    -p_j * (z_j + entropy). Of the logits only one chunk exists, in either pass, and two more tables of its size.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        logprobs, entropy, totals = (torch.empty(len(tokens), device=states.device) for _ in range(3))
        for start in range(0, len(tokens), chunk):
            part = slice(start, start + chunk)
            table = _logits(states[part], weight, bias, temperature)
            totals[part] = table.logsumexp(-1)
            table.sub_(totals[part].unsqueeze(1))
            logprobs[part] = table.gather(1, tokens[part].unsqueeze(1))[:, 0]
            # An impossible token (-inf) has probability 0 and must not make a NaN.
            entropy[part] = -(table.exp() * table.clamp_min_(torch.finfo(torch.float32).min)).sum(-1)
        ctx.save_for_backward(states, weight, bias, tokens, totals, entropy)
        ctx.temperature, ctx.chunk = temperature, chunk
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        states, weight, bias, tokens, totals, entropy = ctx.saved_tensors
        of_states = torch.empty_like(states)
        trained = ctx.needs_input_grad[1]
        of_weight = torch.zeros(weight.shape, device=weight.device) if trained else None
        of_bias = torch.zeros(len(weight), device=weight.device) if bias is not None else None
        for start in range(0, len(tokens), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            table = _logits(states[part], weight, bias, ctx.temperature).sub_(totals[part].unsqueeze(1))
            here = [None if grad is None else grad[part] for grad in grads]
            slope = _slope(table, tokens[part], here[0], here[1], entropy[part])
            slope.div_(ctx.temperature)
            if of_bias is not None:
                of_bias += slope.sum(0)
            slope = slope.to(weight.dtype)
            of_states[part] = slope @ weight
            if of_weight is not None:
                of_weight += product(slope.t(), states[part])
        sums = [None if total is None else total.to(weight.dtype) for total in (of_weight, of_bias)]
        return of_states, sums[0], sums[1], None, None, None


def _slope(
    table: Tensor, tokens: Tensor, of_logprobs: Tensor | None, of_entropy: Tensor | None, entropy: Tensor
) -> Tensor:
    """Gradient (n, V) by the logits after temperature, of log-probabilities `table`, which it overwrites."""
    weights = table.exp()
    if of_entropy is None:
        slope = weights.mul_(0.0 if of_logprobs is None else -of_logprobs.unsqueeze(1))
    else:
        rate = table.clamp_min_(torch.finfo(torch.float32).min).add_(entropy.unsqueeze(1)).mul_(of_entropy.unsqueeze(1))
        if of_logprobs is not None:
            rate += of_logprobs.unsqueeze(1)
        slope = weights.mul_(rate.neg_())
    if of_logprobs is not None:
        slope.scatter_add_(1, tokens.unsqueeze(1), of_logprobs.unsqueeze(1))
    return slope


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    table = product(states, weight.t()).float()
    if bias is not None:
        table += bias
    return table if temperature == 1 else table.div_(temperature)
