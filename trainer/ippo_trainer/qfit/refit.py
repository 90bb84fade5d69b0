"""From a trained Q model and its conversations to a last layer by least squares."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ippo_trainer.data.censoring import Censoring
from ippo_trainer.data.own import explored
from ippo_trainer.data.schema import Conversation
from ippo_trainer.models.last_layer import LastLayer, attach
from ippo_trainer.models.packing import hidden_states
from ippo_trainer.models.parts import decoder
from ippo_trainer.qfit.examples import Example, pack_turns, turn_offsets
from ippo_trainer.qfit.least_squares import LeastSquaresSettings, LoggedTurns, fit
from ippo_trainer.qfit.targets import lambda_targets

_EXPLORED_WEIGHT = 2.0
"""Of exploring turns, and of the states right behind them, which few conversations visit."""


def refit(
    model: Any,
    conversations: Sequence[Conversation],
    examples: Sequence[Example],
    censoring: Censoring,
    settings: LeastSquaresSettings,
    folds: int,
    max_tokens: int,
) -> LastLayer:
    """Fits the last layer to the features of the model's trunk, and has the model read through it.

    Args:
        model: the Q model.
        conversations, examples: what is fitted to, in the same order, none of them censored.
        censoring: of the log that they are from.
        settings: of the least squares.
        folds: conversations go round so many; each member leaves one out. With 1, members leave nothing out.
        max_tokens: of one forward.

    Raises:
        BadDataError: see `least_squares.fit`.
    """
    attach(model, None)
    states, actions = turn_features(model, examples, max_tokens)
    rows = [_rows(conversation, number % folds, censoring) for number, conversation in enumerate(conversations)]
    columns = torch.tensor([row for turns in rows for row in turns], dtype=torch.double).T
    last, outcome, weight, value_weight, fold = columns
    scale = weight.mean().clamp_min(1e-12)
    turns = LoggedTurns(states, actions, last > 0, outcome, weight / scale, value_weight / scale, fold.long())
    layer = fit(turns, settings)
    attach(model, layer)
    return layer


def turn_features(model: Any, examples: Sequence[Example], max_tokens: int) -> tuple[Tensor, Tensor]:
    """(n, D) features of the trunk at the last token of every turn's prompt and of its suggestion, on the CPU."""
    offsets, width = turn_offsets(examples), model.config.hidden_size
    states, actions = (torch.zeros(int(offsets[-1]), width) for _ in range(2))
    device = next(model.parameters()).device
    with torch.no_grad():
        for part in pack_turns(examples, range(len(examples)), offsets, max_tokens):
            packed = part.packed.to(device)
            hidden = hidden_states(decoder(model), packed).float().cpu()
            states[part.turns] = hidden[part.packed.prompt_index]
            actions[part.turns] = hidden[part.packed.response_end_index]
    return states, actions


def _rows(conversation: Conversation, fold: int, censoring: Censoring) -> list[tuple[float, ...]]:
    """By turn: whether it is the last one, its reward, its weight for Q and for V, its fold."""
    turns, end = conversation.turns, len(conversation.turns) - 1
    # Whose turn counts how much does not depend on the values.
    targets = lambda_targets(conversation, 1.0, 0.0, [0.0] * len(turns), censoring)
    rows: list[tuple[float, ...]] = []
    for index, (turn, target) in enumerate(zip(turns, targets, strict=True)):
        rare = explored(turn) or (index > 0 and explored(turns[index - 1]))
        boost = _EXPLORED_WEIGHT if rare else 1.0
        reward = float(conversation.outcome) if index == end else 0.0
        rows.append((float(index == end), reward, boost * target.weight, boost * target.value_weight, float(fold)))
    return rows
