"""Candidates of logged states with their Q: drawn and scored once, kept for all passes over them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ippo_trainer.models.packing import Group, pack_batches
from ippo_trainer.models.sampling import Sampling
from ippo_trainer.mpo.proposals import propose
from ippo_trainer.mpo.tilt import Table, Tilt
from ippo_trainer.ppo.rollout import Part, State, sample_states
from ippo_trainer.qfit.readings import read_logits
from ippo_trainer.training.distributed import Ranks


@dataclass(frozen=True, slots=True)
class Source:
    """A model that candidates are drawn from, and how."""

    model: Any
    sampling: Sampling
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
class Target:
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
            chosen = [next(rows) for _ in range(count)]
            self.states.append(Candidates(conversation, turn, *map(list, zip(*chosen, strict=True))))


def draw(
    conversations: Mapping[int, Sequence[State]],
    sources: tuple[Source, Source],
    share: float,
    q: Any,
    ranks: Ranks,
    seed: int,
    max_tokens: int,
) -> list[Candidates]:
    """Draws candidates in every state of some conversations and scores them. States without any are left out.

    Args:
        conversations: states by the conversation's number.
        sources: pi_i and the explorer.
        share: of the explorer.
        q: the Q model, frozen.
        ranks: the processes that draw and score together.
        seed: of both random streams.
        max_tokens: of one forward.
    """
    rows = list(conversations.values())
    own, explored = (
        sample_states(source.model, rows, source.sampling, seed, source.purpose, ranks) for source in sources
    )
    places = [(number, turn) for number, states in conversations.items() for turn in range(len(states))]
    proposals = [propose(mine, other, share) for mine, other in zip(own, explored, strict=True)]
    found = [index for index, each in enumerate(proposals) if each.responses]
    states = [state for row in rows for state in row]
    groups = [Group(states[index].prompt, proposals[index].responses) for index in found]
    scores = iter(score(groups, q, ranks, max_tokens))
    return [
        Candidates(*places[index], proposals[index].responses, proposals[index].prior.tolist(), next(scores))
        for index in found
    ]


def score(groups: Sequence[Group], q: Any, ranks: Ranks, max_tokens: int) -> list[list[float]]:
    """Q in [0, 1] of every response of every group."""
    if not groups:
        return []
    parts, order = deal(groups, ranks, max_tokens, next(q.parameters()).device)
    scores = torch.zeros(sum(len(group.responses) for group in groups))
    with torch.no_grad():
        for part, counts in ranks.share(parts):
            logits = ranks.call(read_logits, q, part.packed)
            if counts:
                scores[part.rows] = logits.q.sigmoid().cpu()
    ranks.sum(scores)
    values = iter(scores.tolist())
    by_group = {number: [next(values) for _ in groups[number].responses] for number in order}
    return [by_group[number] for number in range(len(groups))]


def deal(groups: Sequence[Group], ranks: Ranks, max_tokens: int, device: torch.device) -> tuple[list[Part], list[int]]:
    """Packs groups into parts for all ranks, about equally many groups each.

    Returns:
        The parts, and the groups' numbers in the order of the parts' rows.
    """
    parts: list[Part] = []
    order: list[int] = []
    row = 0
    cuts = np.linspace(0, len(groups), ranks.size + 1).round().astype(int).tolist()
    for owner in range(ranks.size):
        low, high = cuts[owner], cuts[owner + 1]
        for numbers, packed in pack_batches(groups[low:high], max_tokens):
            count = len(packed.lengths)
            parts.append(Part(packed.to(device), slice(row, row + count), owner))
            order += [low + number for number in numbers]
            row += count
    return parts, order


def worth_training(candidates: Sequence[Candidates], better: Tilt, least: float) -> list[Target]:
    """By state what the policy imitates: candidates whose weight is at least `least` of the state's largest one."""
    result, start = [], 0
    for each in candidates:
        weights = better.weights[start : start + len(each.responses)]
        start += len(each.responses)
        chosen = np.flatnonzero(weights >= least * weights.max())
        shares = weights[chosen] / weights[chosen].sum()
        result.append(Target([each.responses[index] for index in chosen], shares.tolist()))
    return result
