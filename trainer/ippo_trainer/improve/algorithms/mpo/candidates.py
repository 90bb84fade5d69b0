"""Candidates of logged states with their Q: drawn and scored once, kept for all passes over them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ippo_trainer.improve.algorithms.mpo.proposals import propose
from ippo_trainer.improve.algorithms.mpo.tilt import Table, Tilt
from ippo_trainer.improve.sampler import Sampler
from ippo_trainer.improve.states import LoggedState
from ippo_trainer.models.packing import Group


@dataclass(frozen=True, slots=True)
class Source:
    """A model that candidates are drawn from, and how."""

    model: Any
    sampler: Sampler
    purpose: str
    """Names the random stream."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The distinct candidates of one state."""

    conversation: int
    """Number of the logged conversation."""
    turn: int
    """Place of the state among the conversation's."""
    responses: list[list[int]]
    prior: list[float]
    """By response; sums to 1."""
    q: list[float]
    """By response, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class TargetDistribution:
    """What the policy imitates in one state."""

    responses: list[list[int]]
    weights: list[float]
    """By response; sums to 1."""


@dataclass
class Pool:
    """All that was drawn so far; a `StatePart`."""

    states: list[Candidates] = field(default_factory=list)

    def table(self) -> Table:
        """The candidates of all states, flat; state by state."""
        counts = [len(each.responses) for each in self.states]
        return Table(
            prior=np.array([value for each in self.states for value in each.prior]),
            q=np.array([value for each in self.states for value in each.q]),
            state=np.repeat(np.arange(len(self.states)), counts),
        )

    def tensors(self) -> Iterable[tuple[str, Tensor]]:
        responses = [ids for each in self.states for ids in each.responses]
        columns = {
            "conversation": [each.conversation for each in self.states],
            "turn": [each.turn for each in self.states],
            "count": [len(each.responses) for each in self.states],
            "size": list(map(len, responses)),
            "ids": [token for ids in responses for token in ids],
        }
        yield from ((name, torch.tensor(values, dtype=torch.int64)) for name, values in columns.items())
        for name in ("prior", "q"):
            values = [value for each in self.states for value in getattr(each, name)]
            yield name, torch.tensor(values, dtype=torch.float64)

    def layout(self) -> Mapping[str, Tensor | None]:
        return dict.fromkeys(("conversation", "turn", "count", "size", "ids", "prior", "q"))

    def set_tensors(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        columns = {name: tensor.tolist() for name, tensor in tensors}
        ids, responses = iter(columns["ids"]), []
        for size in columns["size"]:
            responses.append([next(ids) for _ in range(size)])
        rows = zip(responses, columns["prior"], columns["q"], strict=True)
        self.states = []
        for conversation, turn, count in zip(columns["conversation"], columns["turn"], columns["count"], strict=True):
            triples = [next(rows) for _ in range(count)]
            self.states.append(Candidates(conversation, turn, *map(list, zip(*triples, strict=True))))


def draw(
    conversations: Mapping[int, Sequence[LoggedState]], own: Source, explored: Source, share: float
) -> list[Candidates]:
    """Draws candidates in every state of some conversations and scores them. States without any are left out.

    Args:
        conversations: states by the conversation's number.
        own: pi_i.
        explored: the explorer.
        share: of the explorer in the mixture.
    """
    rows = list(conversations.values())
    draws = [source.sampler.sample(source.model, rows, source.purpose) for source in (own, explored)]
    places = [(number, turn) for number, states in conversations.items() for turn in range(len(states))]
    proposals = [propose(mine, other, share) for mine, other in zip(*draws, strict=True)]
    present = [index for index, each in enumerate(proposals) if each.responses]
    states = [state for row in rows for state in row]
    groups = [Group(states[index].prompt, proposals[index].responses) for index in present]
    scores = iter(own.sampler.score(groups))
    return [
        Candidates(*places[index], proposals[index].responses, proposals[index].prior.tolist(), next(scores))
        for index in present
    ]


def worth_training(candidates: Sequence[Candidates], better: Tilt, least: float) -> list[TargetDistribution]:
    """By state what the policy imitates: candidates whose weight is at least `least` of the state's largest one."""
    result, start = [], 0
    for each in candidates:
        weights = better.weights[start : start + len(each.responses)]
        start += len(each.responses)
        indices = np.flatnonzero(weights >= least * weights.max())
        shares = weights[indices] / weights[indices].sum()
        result.append(TargetDistribution([each.responses[index] for index in indices], shares.tolist()))
    return result
