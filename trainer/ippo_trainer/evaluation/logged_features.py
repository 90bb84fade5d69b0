"""Logged turns, and what policies would suggest there, in the features in which off-policy values are estimated.

They are the leading components of the trunk's features of state and suggestion, their products, and what Q predicts,
which was fitted to other conversations. Components go by how much they vary, and wordings vary most; Q's prediction is
the direction in which suggestions differ in what follows. It may understate these differences: the equations scale it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ippo_trainer.data.censoring import Censoring
from ippo_trainer.data.schema import Conversation
from ippo_trainer.evaluation.off_policy import EvaluatedTurns, pair_features
from ippo_trainer.models.last_layer import LastLayer
from ippo_trainer.models.packing import Group
from ippo_trainer.qfit.examples import make_examples
from ippo_trainer.qfit.readings import linear_q
from ippo_trainer.qfit.refit import response_features, turn_features
from ippo_trainer.qfit.targets import turn_weights

RANK = 16
"""Leading components of state and suggestion."""
_LEAST_SPREAD = 1e-6
"""Of Q's predictions, as a share of their size: a Q that predicts the same of everything is no feature."""
_TURNS = 1024
"""Whose suggestions' features are there at once."""
_Q_SPREAD = 3.0
"""Standard deviation of the column of Q's predictions: so large that the ridge hardly shrinks it."""


@dataclass(frozen=True, slots=True)
class _QColumn:
    """Q's predictions as a column of the features."""

    centre: float
    scale: float

    @staticmethod
    def of(predictions: Tensor) -> "_QColumn":
        """Centre and scale by the predictions of all logged suggestions (n,)."""
        centre, spread = float(predictions.mean()), float(predictions.std(correction=0))
        varies = spread > _LEAST_SPREAD * float(predictions.abs().max())
        return _QColumn(centre, _Q_SPREAD / spread if varies else 0.0)

    def values(self, predictions: Tensor) -> Tensor:
        """(n, 1) of predictions (n,)."""
        return ((predictions - self.centre) * self.scale).unsqueeze(1)


@dataclass(frozen=True)
class LoggedFeatures:
    """The turns of some conversations in features of Q's trunk."""

    turns: EvaluatedTurns
    _q: Any
    _layer: LastLayer
    _q_column: _QColumn
    _states: Tensor
    """(n, D) of the trunk, at the prompts' last tokens."""
    _prompts: list[list[int]]
    _max_tokens: int

    @staticmethod
    def of(
        q: Any, conversations: Sequence[Conversation], renderer: Any, censoring: Censoring, max_tokens: int
    ) -> "LoggedFeatures":
        """Of conversations with a known end, up to their outcomes.

        Args:
            q: the Q model, whose trunk it is.
            conversations: at least one.
            renderer: of the policies' prompts.
            censoring: of the log that they are from.
            max_tokens: of one forward.

        Raises:
            BadDataError: a message too long for the context.
        """
        examples, _ = make_examples(conversations, renderer)
        states, actions = turn_features(q, examples, max_tokens)
        layer = LastLayer((states.shape[1], actions.shape[1]), min(RANK, states.shape[1]), 1)
        layer.span(states, actions)
        rows = [
            (index == 0, index + 1 == len(each.turns), weight, censoring.weight(len(each.turns)), number)
            for number, each in enumerate(conversations)
            for index, (weight, _) in enumerate(turn_weights(each, censoring))
        ]
        first, last, weight, start, number = (torch.tensor(column) for column in zip(*rows, strict=True))
        predictions = linear_q(q, states, actions)
        q_column = _QColumn.of(predictions)
        logged = torch.cat([pair_features(layer, states, actions), q_column.values(predictions)], 1)
        won = torch.tensor([float(each.outcome) for each in conversations])[number] * last
        turns = EvaluatedTurns(logged, first, last, won, weight, start, number)
        prompts = [group.prompt for example in examples for group in example.groups]
        return LoggedFeatures(turns, q, layer, q_column, states, prompts, max_tokens)

    def of_policy(self, suggestions: Sequence[Sequence[list[int]]]) -> Tensor:
        """(n, P) mean features of a policy's suggestions at every turn's state.

        Args:
            suggestions: by turn, equally many tokens' ids each, as the policy drew them.
        """
        groups = [Group(prompt, list(own)) for prompt, own in zip(self._prompts, suggestions, strict=True)]
        means = []
        for start in range(0, len(groups), _TURNS):
            part = groups[start : start + _TURNS]
            own = response_features(self._q, part, self._max_tokens)
            means.append(own.reshape(len(part), -1, own.shape[1]).mean(1))
        mean = torch.cat(means)
        q_column = self._q_column.values(linear_q(self._q, self._states, mean))
        return torch.cat([pair_features(self._layer, self._states, mean), q_column], 1)
