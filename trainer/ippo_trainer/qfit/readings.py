"""Reading a Q model: one scalar head gives Q(s, a) at a suggestion's last token, V(s) at a prompt's last token.

A last layer that was fitted by least squares takes the head's place. It reads Q from the features of both places, and
of the suggestion's other tokens.
"""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ippo_trainer.models.last_layer import BLOCK_ROWS, last_layer, suggestion_features
from ippo_trainer.models.packing import PackedBatch, hidden_states
from ippo_trainer.models.parts import decoder, head, score
from ippo_trainer.qfit.examples import Example, pack_turns, turn_offsets
from ippo_trainer.stats.intervals import Floats


class Logits(NamedTuple):
    """Before the sigmoid, fp32."""

    q: Tensor
    """(N,) one per response."""
    v: Tensor
    """(G,) one per group."""


def read_logits(model: Any, packed: PackedBatch, states: Tensor | None = None) -> Logits:
    """Logits of Q and V of a packed batch; differentiable.

    Args:
        model: a sequence classifier with one label.
        packed: the batch.
        states: (R*L, D) the trunk's hidden states, if they are known already.
    """
    states = hidden_states(decoder(model), packed) if states is None else states
    layer = last_layer(model)
    if layer is not None:
        prompts = states[packed.prompt_index]
        return Logits(*layer(prompts, prompts[packed.group_index], suggestion_features(states, packed)))
    places = torch.cat([packed.response_end_index, packed.prompt_index])
    logits = score(head(model), states[places]).squeeze(-1)
    count = len(packed.response_end_index)
    return Logits(logits[:count], logits[count:])


def linear_q(model: Any, states: Tensor, actions: Tensor) -> Tensor:
    """(n,) float64 predictions of Q before bounds, and of a trained head its logits. They are linear in the suggestion,
    so that the prediction of a mean of suggestions is the mean of their predictions.

    Args:
        model: the Q model.
        states, actions: (n, D) and (n, 2 D), as `refit.turn_features`.
    """
    layer = last_layer(model)
    if layer is None:
        output = head(model)
        bias = None if output.bias is None else output.bias.detach().float().cpu()
        ends = actions[:, : states.shape[1]].float()
        return functional.linear(ends, output.weight.detach().float().cpu(), bias).squeeze(-1).double()
    here = copy.deepcopy(layer).cpu()  # blocks of its columns fill a GPU beside the models
    weights = here.q.mean(0)
    rows = (slice(start, start + BLOCK_ROWS) for start in range(0, len(states), BLOCK_ROWS))
    return torch.cat([here.q_features(states[row], actions[row]) @ weights for row in rows])


def read_all(model: Any, examples: Sequence[Example], max_tokens: int, device: torch.device) -> tuple[Floats, Floats]:
    """Q and V as probabilities, float64, of every turn of every conversation, flat in their order: two (n,) arrays."""
    offsets = turn_offsets(examples)
    q, v = np.zeros(offsets[-1]), np.zeros(offsets[-1])
    with torch.no_grad():
        for piece in pack_turns(examples, range(len(examples)), offsets, max_tokens):
            logits = read_logits(model, piece.packed.to(device))
            turns = piece.turns.numpy()  # numpy takes a tensor of one number for an index, not for a list of one
            q[turns] = logits.q.double().sigmoid().cpu().numpy()
            v[turns] = logits.v.double().sigmoid().cpu().numpy()
    return q, v
