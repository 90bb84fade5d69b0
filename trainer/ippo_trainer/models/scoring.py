"""Log-probabilities of response tokens, without the logits of all of them at once."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ippo_trainer.models.kernels import compiled, compiles, product
from ippo_trainer.models.packing import PackedBatch, hidden_states
from ippo_trainer.models.parts import decoder

CHUNK_LOGITS = 1 << 24
"""Logits held at once on a CPU: 64 MiB in fp32."""
_DEVICE_CHUNK_LOGITS = 1 << 26


_TABLES = 3
"""Of logits, at once: scaled, their probabilities, and the slope."""


def logit_bytes(on_device: bool, logits: int) -> int:
    """Bytes that so many logits take while they are trained on, chunk by chunk."""
    return table_bytes(min(logits, _DEVICE_CHUNK_LOGITS if on_device else CHUNK_LOGITS))


def table_bytes(logits: int) -> int:
    """The same, of all of them at once."""
    return 4 * _TABLES * logits


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


def logit_chunk(head: Any, states: Tensor, most: int | None = None) -> int:
    """Hidden states that are read by a head at once; see `token_logprobs`."""
    limit = most or (CHUNK_LOGITS if states.device.type == "cpu" else _DEVICE_CHUNK_LOGITS)
    return max(1, limit // int(head.weight.shape[0]))


def score_tokens(
    states: Tensor, head: Any, tokens: Tensor, temperature: float = 1.0, chunk_logits: int | None = None
) -> TokenScores:
    """Scores `tokens` (T,) given the hidden states (T, D) that predict them; see `token_logprobs`."""
    on_device = states.device.type != "cpu"
    chunk = logit_chunk(head, states, chunk_logits)
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
        read = _fused(_read, states)
        for start in range(0, len(tokens), chunk):
            part = slice(start, start + chunk)
            table = _logits(states[part], weight, bias)
            totals[part], logprobs[part], entropy[part] = read(table, tokens[part], temperature)
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
        slope_of = _fused(_slope, states)
        for start in range(0, len(tokens), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            table = _logits(states[part], weight, bias)
            figures = tokens[part], totals[part], entropy[part]
            here = [None if grad is None else grad[part] for grad in grads]
            slope = slope_of(table, figures, here, ctx.temperature, weight.dtype)
            of_states[part] = slope @ weight
            if of_weight is not None:
                of_weight += product(slope.t(), states[part])
            if of_bias is not None:
                of_bias += slope.sum(0, dtype=torch.float32)
        sums = [None if total is None else total.to(weight.dtype) for total in (of_weight, of_bias)]
        return of_states, sums[0], sums[1], None, None, None


def _read(table: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of logits (n, V): the log of each row's normaliser, its token's log-probability, and its entropy, (n,) each."""
    table = table / temperature
    total = table.logsumexp(-1)
    table = table - total.unsqueeze(1)
    logprobs = table.gather(1, tokens.unsqueeze(1))[:, 0]
    # An impossible token (-inf) has probability 0 and must not make a NaN.
    return total, logprobs, -(table.exp() * table.clamp_min(torch.finfo(torch.float32).min)).sum(-1)


def _slope(
    table: Tensor,
    figures: tuple[Tensor, Tensor, Tensor],
    grads: Sequence[Tensor | None],
    temperature: float,
    dtype: torch.dtype,
) -> Tensor:
    """Gradient (n, V) by the logits, from those by log-probabilities and by entropies, (n,) or None each.

    `figures`: the rows' tokens, normalisers and entropies.
    """
    (tokens, total, entropy), (of_logprobs, of_entropy) = figures, grads
    table = table / temperature - total.unsqueeze(1)
    rate = torch.zeros_like(table) if of_logprobs is None else of_logprobs.unsqueeze(1).expand_as(table)
    if of_entropy is not None:
        surprise = table.clamp_min(torch.finfo(torch.float32).min) + entropy.unsqueeze(1)
        rate = rate + surprise * of_entropy.unsqueeze(1)
    slope = -table.exp() * rate
    if of_logprobs is not None:
        hit = torch.arange(table.shape[1], device=table.device) == tokens.unsqueeze(1)
        slope = slope + hit * of_logprobs.unsqueeze(1)
    return (slope / temperature).to(dtype)


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    table = product(states, weight.t()).float()
    return table if bias is None else table + bias


def _fused(function: Callable[..., Any], states: Tensor) -> Any:
    """On a GPU one kernel for what would be a dozen passes over a table of the vocabulary."""
    return compiled(function) if states.is_cuda and compiles() else function
