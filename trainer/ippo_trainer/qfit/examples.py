"""Conversations as token ids, and batches of them that go through one packed forward."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.models.packing import Group, PackedBatch, pack_batches, row_tokens
from ippo_trainer.qfit.outlook import Ahead, Words, words_ahead
from ippo_trainer.qfit.targets import Target

# Conversations are sorted by length within this many batches, so that rows of a batch need little padding.
_WINDOW = 16


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation: a group per turn, in order, whose one response is the suggestion that was logged."""

    groups: list[Group]

    @property
    def tokens(self) -> int:
        """Tokens of its packed row, if its prompts extend one another."""
        return row_tokens(self.groups)


@dataclass(frozen=True, slots=True)
class PackedTurns:
    """A packed piece of a batch. Its N turns are its N groups and its N responses, in the same order."""

    packed: PackedBatch
    turns: Tensor
    """(N,) where each turn sits in the flat arrays over all turns of all conversations."""
    lm_predict: Tensor
    """(S,) where the logits of each dialogue token are read: the trunks, and each row's last suggestion."""
    lm_token: Tensor
    """(S,) where that token sits."""
    ahead: Ahead | None = None
    """What was said after each turn; None where nobody asked."""

    def to(self, device: torch.device) -> "PackedTurns":
        """The same on another device."""
        return PackedTurns(
            self.packed.to(device),
            self.turns.to(device),
            self.lm_predict.to(device),
            self.lm_token.to(device),
            self.ahead and self.ahead.to(device),
        )


@dataclass(frozen=True, slots=True)
class Targets:
    """What every turn is fitted to, flat over all turns (n,), fp32. Weights are relative: their mean is about 1."""

    value: Tensor
    weight: Tensor
    value_weight: Tensor

    def to(self, device: torch.device) -> "Targets":
        """The same on another device."""
        return Targets(self.value.to(device), self.weight.to(device), self.value_weight.to(device))

    @staticmethod
    def of(targets: Sequence[Sequence[Target]]) -> "Targets":
        """From targets by conversation and turn; divides the weights by their mean."""
        table = torch.tensor(
            [(target.value, target.weight, target.value_weight) for turns in targets for target in turns],
            dtype=torch.float64,
        )
        scale = table[:, 1].mean().clamp_min(1e-12)
        return Targets(table[:, 0].float(), (table[:, 1] / scale).float(), (table[:, 2] / scale).float())


def make_examples(conversations: Sequence[Conversation], renderer: Any) -> tuple[list[Example], int]:
    """Renders every turn's prompt and suggestion.

    Sampled token ids are used where they are known and belong to the suggestion, else the suggestion's text.

    Returns:
        One example per conversation, and how many turns of history were dropped to fit the context.

    Raises:
        BadDataError: a message too long for the context.
    """
    examples, dropped = [], 0
    for conversation in conversations:
        groups = []
        for index, turn in enumerate(conversation.turns):
            prompt = renderer.prompt_at(conversation, index)
            dropped += prompt.dropped_turns
            groups.append(Group(prompt.ids, [_response(turn, renderer)]))
        examples.append(Example(groups))
    return examples, dropped


def _response(turn: Turn, renderer: Any) -> list[int]:
    if turn.token_ids and renderer.decode(turn.token_ids)[0] == turn.suggestion:
        return list(turn.token_ids)
    response: list[int] = renderer.response(turn.suggestion)
    return response


def turn_offsets(examples: Sequence[Example]) -> NDArray[np.int64]:
    """(conversations + 1,) where each conversation's turns begin in the flat arrays."""
    return np.concatenate([[0], np.cumsum([len(example.groups) for example in examples])]).astype(np.int64)


def shuffled_batches(examples: Sequence[Example], batch_size: int, seed: int) -> list[list[int]]:
    """Numbers of the conversations of each batch of about `batch_size`: random, but with similar lengths together.

    The last batch may be smaller. Depends on `seed` and the examples' lengths and order only.
    """
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(examples))
    window, batches = batch_size * _WINDOW, []
    for start in range(0, len(order), window):
        members = sorted(order[start : start + window].tolist(), key=lambda number: (examples[number].tokens, number))
        batches += [members[first : first + batch_size] for first in range(0, len(members), batch_size)]
    return batches


def pack_turns(
    examples: Sequence[Example], members: Sequence[int], offsets: NDArray[np.int64], max_tokens: int
) -> list[PackedTurns]:
    """Packs the conversations `members` into pieces of at most `max_tokens` tokens each."""
    if not len(members):
        return []
    groups = [group for member in members for group in examples[member].groups]
    turns = np.concatenate([np.arange(offsets[member], offsets[member + 1]) for member in members])
    return [_packed_turns(packed, turns[numbers]) for numbers, packed in pack_batches(groups, max_tokens)]


def with_words_ahead(
    pieces: Sequence[PackedTurns], examples: Sequence[Example], members: Sequence[int], offsets: NDArray[np.int64]
) -> list[PackedTurns]:
    """Pieces of the conversations `members` with what was said after their turns. Of one batch: a log's would take
    memory that grows with the square of its conversations' lengths."""
    words: dict[int, tuple[list[int], list[int]]] = {}
    for member in members:
        turns = range(offsets[member], offsets[member + 1])
        words |= zip(turns, zip(*words_ahead(examples[member].groups), strict=True), strict=True)
    return [replace(piece, ahead=_ahead([words[turn] for turn in piece.turns.tolist()])) for piece in pieces]


def _ahead(words: Sequence[tuple[list[int], list[int]]]) -> Ahead:
    return Ahead(*(Words.of(side) for side in zip(*words, strict=True)))


def _packed_turns(packed: PackedBatch, turns: NDArray[np.int64]) -> PackedTurns:
    width = packed.input_ids.shape[1]
    rows = packed.prompt_index // width
    last = torch.ones(len(rows), dtype=torch.bool)
    last[:-1] = rows[1:] != rows[:-1]  # earlier suggestions are in the trunk already
    ending = last[packed.response_index]
    return PackedTurns(
        packed=packed,
        turns=torch.from_numpy(turns),
        lm_predict=torch.cat([packed.trunk_predict_index, packed.predict_index[ending]]),
        lm_token=torch.cat([packed.trunk_token_index, packed.token_index[ending]]),
    )
