"""Logged turns, and what policies would suggest there, in the features in which off-policy values are estimated."""

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
from ippo_trainer.qfit.refit import response_features, turn_features
from ippo_trainer.qfit.targets import turn_weights

RANK = 8
"""Leading components of state and suggestion."""


@dataclass(frozen=True)
class LoggedFeatures:
    """The turns of some conversations in features of Q's trunk."""

    turns: EvaluatedTurns
    _q: Any
    _layer: LastLayer
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
        won = torch.tensor([float(each.outcome) for each in conversations])[number] * last
        turns = EvaluatedTurns(pair_features(layer, states, actions), first, last, won, weight, start, number)
        prompts = [group.prompt for example in examples for group in example.groups]
        return LoggedFeatures(turns, q, layer, states, prompts, max_tokens)

    def of_policy(self, suggestions: Sequence[Sequence[list[int]]]) -> Tensor:
        """(n, P) mean features of a policy's suggestions at every turn's state.

        Args:
            suggestions: by turn, equally many tokens' ids each, as the policy drew them.
        """
        groups = [Group(prompt, list(own)) for prompt, own in zip(self._prompts, suggestions, strict=True)]
        own = response_features(self._q, groups, self._max_tokens)
        return pair_features(self._layer, self._states, own.reshape(len(groups), -1, own.shape[1]).mean(1))
