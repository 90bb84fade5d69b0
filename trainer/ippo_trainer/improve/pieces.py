"""Responses to some states, packed for forwards and dealt to the ranks that run them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ippo_trainer.models.packing import Group, PackedBatch, pack_batches


@dataclass(frozen=True, slots=True)
class PackedResponses:
    """A packed piece of a minibatch; `rows` are its responses' rows in the batch's tables."""

    packed: PackedBatch
    rows: slice
    owner: int = 0
    """Rank of the process that runs it."""


def deal(
    groups: Sequence[Group], ranks: int, max_tokens: int, device: torch.device, first_row: int = 0
) -> tuple[list[PackedResponses], list[int]]:
    """Packs groups into pieces of at most `max_tokens` tokens, about equally many groups for each rank.

    Args:
        groups: prompts with their responses.
        ranks: how many there are.
        max_tokens: of one forward.
        device: where the pieces go.
        first_row: row of the first response; each response has a row.

    Returns:
        The pieces, and the groups' numbers in the order of the pieces' rows.
    """
    pieces: list[PackedResponses] = []
    order: list[int] = []
    row = first_row
    cuts = np.linspace(0, len(groups), ranks + 1).round().astype(int).tolist()
    for owner in range(ranks):
        low, high = cuts[owner], cuts[owner + 1]
        for numbers, packed in pack_batches(groups[low:high], max_tokens):
            rows = slice(row, row + len(packed.lengths))
            pieces.append(PackedResponses(packed.to(device), rows, owner))
            order += [low + number for number in numbers]
            row = rows.stop
    return pieces, order
