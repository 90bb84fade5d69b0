"""The loss of a fit: cross-entropy of Q and V, and prediction of the dialogue's words."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ippo_trainer.models.packing import hidden_states
from ippo_trainer.models.parts import decoder
from ippo_trainer.models.scoring import logit_chunk, score_tokens
from ippo_trainer.qfit.examples import PackedTurns, Targets
from ippo_trainer.qfit.outlook import LanguageHead, word_loss
from ippo_trainer.qfit.readings import read_logits

VALUE_WEIGHT = 0.5


@dataclass(frozen=True, slots=True)
class LossSums:
    """Sums, not means, so that pieces of a batch add up to exactly the batch's loss."""

    q: Tensor
    """Weighted cross-entropy of Q."""
    v: Tensor
    """Weighted cross-entropy of V."""
    lm: Tensor
    """Cross-entropy of the dialogue's tokens; 0 without a language head."""
    words: Tensor
    """Cross-entropy of what comes after suggestions and after prompts, `outlook.word_loss`; 0 without such a head."""


def loss_sums(model: Any, language: LanguageHead | None, piece: PackedTurns, targets: Targets) -> LossSums:
    """Losses of one piece of a batch, in nats; differentiable.

    Soft-target cross-entropy has the same minimiser as squared error, the conditional mean, and is better conditioned
    near 0, where rare outcomes live.

    Args:
        model: the Q model.
        language: None leaves the prediction of words out.
        piece: on the model's device.
        targets: of all turns, on the model's device.
    """
    states = hidden_states(decoder(model), piece.packed)
    logits = read_logits(model, piece.packed, states)
    value = targets.value[piece.turns]
    q = functional.binary_cross_entropy_with_logits(logits.q, value, targets.weight[piece.turns], reduction="sum")
    v = functional.binary_cross_entropy_with_logits(logits.v, value, targets.value_weight[piece.turns], reduction="sum")
    if language is None:
        return LossSums(q, v, *torch.zeros(2, device=q.device))
    tokens, output = piece.packed.input_ids.reshape(-1)[piece.lm_token], language.output
    ends, prompts = states[piece.packed.response_end_index], states[piece.packed.prompt_index]
    assert piece.ahead is not None, "see `with_words_ahead`"
    words = word_loss(language.reply(ends), output, piece.ahead.reply)
    words = words + word_loss(language.rest(prompts), output, piece.ahead.rest)
    return LossSums(q, v, _next_token_loss(states[piece.lm_predict], output, tokens), words)


def _next_token_loss(states: Tensor, output: Any, tokens: Tensor) -> Tensor:
    """Summed cross-entropy of tokens (S,) given states (S, D); few logits at once, backward too."""
    if states.device.type != "cpu" or states.dtype != torch.float32:
        return -score_tokens(states, output, tokens).logprobs.sum()
    chunk = logit_chunk(output, states)
    if len(tokens) <= chunk:
        return _cross_entropy(states, output, tokens)
    total = torch.zeros((), device=states.device)
    for start in range(0, len(tokens), chunk):
        piece = states[start : start + chunk], output, tokens[start : start + chunk]
        total = total + checkpoint(_cross_entropy, *piece, use_reentrant=False)
    return total


def _cross_entropy(states: Tensor, output: Any, tokens: Tensor) -> Tensor:
    return functional.cross_entropy(output(states).float(), tokens, reduction="sum")
