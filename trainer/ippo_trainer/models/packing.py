"""Tree packing: the responses to one prompt, and prompts that extend one another, share a single forward.

The states of a conversation are prefixes of one another, and several responses are sampled from each state. Run one by
one, a conversation of n turns with k samples would compute its prefix n * k times. Here the prefix is a trunk, the
responses are branches, and a block-causal mask lets a branch see the trunk up to its prompt's end and itself: the tree
attention of speculative decoding (arXiv 2305.09781), used for training. A response that the next prompt goes on with is
in the trunk already and needs no branch: what was suggested is part of the history, so a log is mostly trunks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ippo_trainer.models import kernels
from ippo_trainer.models.attention import additive_mask, attention_mask, by_kind, check_reach, sliding_window
from ippo_trainer.models.recompute import recomputed_layers

# Entries of a mask of every query and key, up to which no block mask is compiled.
_DENSE = 1 << 22
_TRUNK = 0


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt (not empty) and the responses to it, as token ids; no response may be empty, there may be none."""

    prompt: list[int]
    responses: list[list[int]]


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """Where tokens lie for block masks: each row's trunk first, so that few blocks hold all that branches see of it."""

    order: Tensor
    """(R, L) the columns of a row's tokens, in the new order."""
    places: Tensor
    """(R*L,) where each token went, among rows of whole blocks laid end to end."""

    @staticmethod
    def of(branches: Tensor) -> "BlockLayout":
        """Of `PackedBatch.branch_ids`."""
        rows, width = branches.shape
        order = (branches != _TRUNK).int().argsort(dim=1, stable=True)
        column = torch.empty_like(order).scatter_(1, order, torch.arange(width, device=order.device).expand(rows, -1))
        wide = width + -width % kernels.BLOCK
        first = torch.arange(rows, device=order.device).unsqueeze(1) * wide
        return BlockLayout(order, (first + column).view(-1))

    def arranged(self, table: Tensor, fill: int) -> Tensor:
        """A (R, L) table in the new order, with columns of `fill` up to the next whole block."""
        return kernels.padded(table.gather(1, self.order), fill)


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Groups laid out in R rows of L tokens. All indices point into the flattened (R*L,) token axis.

    G groups hold N responses, numbered by group and then by response, with T tokens in all, numbered by response and
    then by position. The S trunk pairs are neighbours within a trunk, for next-token losses on the dialogue itself.
    """

    input_ids: Tensor
    """(R, L) int64; padding repeats token 0 and is attended by nobody else."""
    position_ids: Tensor
    """(R, L) int64: the position that the token has in its own (prompt, response) sequence."""
    branch_ids: Tensor
    """(R, L) int64: 0 trunk, -1 padding, else the branch's number within its row."""
    visible: Tensor
    """(R, L) int64: a branch's token sees the trunk's first `visible` tokens."""
    prompt_index: Tensor
    """(G,) where each group's last prompt token sits: the value of the state is read there."""
    response_end_index: Tensor
    """(N,) where each response's last token sits: Q of (state, response) is read there."""
    predict_index: Tensor
    """(T,) where the logits that predict each response token are read."""
    token_index: Tensor
    """(T,) where each response token sits."""
    response_index: Tensor
    """(T,) the response that each response token belongs to."""
    group_index: Tensor
    """(N,) the group that each response belongs to."""
    lengths: Tensor
    """(N,) tokens per response."""
    trunk_predict_index: Tensor
    """(S,) every trunk token but the first of each row is predicted from here."""
    trunk_token_index: Tensor
    """(S,) where that trunk token sits."""
    longest: int
    """Tokens of the longest sequence."""
    causal: bool
    """Nothing branches off: every row is one text, and a query sees all before it."""
    masks: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    """Made so far for a GPU: the layout, and block masks by window."""

    @property
    def tokens(self) -> Tensor:
        """(T,) the response tokens' ids."""
        return self.input_ids.reshape(-1)[self.token_index]

    @property
    def attention_mask(self) -> Tensor:
        """(R, 1, L, L) additive fp32 mask, 0 where the query (row) may see the key (column)."""
        return additive_mask(allowed(self), torch.float32)

    def to(self, device: torch.device | str) -> "PackedBatch":
        """The same batch on another device."""
        tables = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        moved: dict[str, Any] = {name: table.to(device) for name, table in tables.items() if isinstance(table, Tensor)}
        return replace(self, **moved, masks={})

    def block_mask(self, window: int | None) -> Any:
        """The batch's mask for a GPU, if its rows are laid end to end; see `kernels.tree_mask`."""
        if window not in self.masks:
            tables = ((self.branch_ids, -1), (self.position_ids, 0), (self.visible, 0))
            branches, positions, visible = (self.block_layout.arranged(table, fill) for table, fill in tables)
            self.masks[window] = kernels.tree_mask(branches, positions, visible, window)
        return self.masks[window]

    @property
    def block_layout(self) -> BlockLayout:
        """How the rows lie there."""
        if "layout" not in self.masks:
            self.masks["layout"] = BlockLayout.of(self.branch_ids)
        layout: BlockLayout = self.masks["layout"]
        return layout


class _Row:
    """One row being filled: a trunk that grows, and the branches that hang on it."""

    def __init__(self) -> None:
        self.trunk: list[int] = []
        self.trunk_at: list[int] = []  # column of each trunk token
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.branches: list[int] = []
        self.visible: list[int] = []
        self.branch = _TRUNK
        self.causal = True

    def extend(self, prompt: list[int]) -> int:
        """Appends the prompt's new tokens to the trunk; returns the column of the prompt's last token."""
        start, count = len(self.trunk), len(prompt) - len(self.trunk)
        self.causal = self.causal and len(self.ids) == start
        self.trunk_at.extend(range(len(self.ids), len(self.ids) + count))
        self.trunk = prompt
        self._append(prompt[start:], start, _TRUNK, 0)
        return self.trunk_at[-1]

    def attach(self, response: list[int]) -> int:
        """Appends a branch at the trunk's end; returns the column of its first token."""
        self.branch += 1
        column = len(self.ids)
        self.causal = self.causal and column == len(self.trunk)
        self._append(response, len(self.trunk), self.branch, len(self.trunk))
        return column

    def _append(self, ids: list[int], position: int, branch: int, visible: int) -> None:
        self.ids.extend(ids)
        self.positions.extend(range(position, position + len(ids)))
        self.branches.extend([branch] * len(ids))
        self.visible.extend([visible] * len(ids))


@dataclass(frozen=True, slots=True)
class _Places:
    """Where things lie, as (row, column), and how long they are."""

    prompts: list[tuple[int, int]] = field(default_factory=list)
    """By group: the last prompt token."""
    starts: list[tuple[int, int]] = field(default_factory=list)
    """By response: the first token."""
    lengths: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    """By response: the number of its group."""


def plan_rows(groups: Sequence[Group]) -> list[list[int]]:
    """Which consecutive groups share a row: a group joins while its prompt extends the one before it.

    Equal prompts do not: they are of different conversations, where each has a suggestion that its next prompt goes on
    with, and only one of them can be in the trunk.
    """
    rows: list[list[int]] = []
    trunk: list[int] = []
    for number, group in enumerate(groups):
        if not group.prompt or not all(group.responses):
            raise ValueError(f"group {number} has an empty prompt or an empty response")
        if rows and len(group.prompt) > len(trunk) and group.prompt[: len(trunk)] == trunk:
            rows[-1].append(number)
        else:
            rows.append([number])
        trunk = group.prompt
    return rows


def pack(groups: Sequence[Group]) -> PackedBatch:
    """Lays groups out as trees, one row per run of groups whose prompts extend one another.

    Args:
        groups: at least one; put the states of a conversation next to each other, in order.

    Raises:
        ValueError: no groups, an empty prompt or an empty response.
    """
    if not groups:
        raise ValueError("there is nothing to pack")
    rows: list[_Row] = []
    places = _Places()
    for members in plan_rows(groups):
        row = _Row()
        for number, following in zip(members, [*members[1:], None], strict=True):
            places.owners.extend([number] * len(groups[number].responses))
            _lay(row, len(rows), groups[number], None if following is None else groups[following], places)
        rows.append(row)
    return _assemble(rows, places)


def _lay(row: _Row, number: int, group: Group, following: Group | None, places: _Places) -> None:
    """Adds a group to row `number`, which goes on with `following`."""
    places.prompts.append((number, row.extend(group.prompt)))
    branches = [None if _goes_on(group, ids, following) else row.attach(ids) for ids in group.responses]
    end = len(row.ids)  # where the trunk goes on
    places.starts.extend([(number, end if column is None else column) for column in branches])
    places.lengths.extend(map(len, group.responses))


def _goes_on(group: Group, response: list[int], following: Group | None) -> bool:
    """Whether the row's next prompt begins with this response to this one, so that it is in the trunk."""
    start = len(group.prompt)
    return following is not None and following.prompt[start : start + len(response)] == response


def _assemble(rows: list[_Row], places: _Places) -> PackedBatch:
    width = max(len(row.ids) for row in rows)
    prompt_index = _flat(places.prompts, width)
    size = np.asarray(places.lengths, np.int64)
    start = _flat(places.starts, width)
    response_index = np.repeat(np.arange(len(size)), size)
    offset = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    token_index = start[response_index] + offset
    owner = np.asarray(places.owners, np.int64)
    predict_index = np.where(offset == 0, prompt_index[owner[response_index]], token_index - 1)
    trunks = [number * width + np.asarray(row.trunk_at, np.int64) for number, row in enumerate(rows)]
    return PackedBatch(
        input_ids=_matrix([row.ids for row in rows], width, 0),
        position_ids=_matrix([row.positions for row in rows], width, 0),
        branch_ids=_matrix([row.branches for row in rows], width, -1),
        visible=_matrix([row.visible for row in rows], width, 0),
        prompt_index=torch.from_numpy(prompt_index),
        response_end_index=torch.from_numpy(start + size - 1),
        predict_index=torch.from_numpy(predict_index),
        token_index=torch.from_numpy(token_index),
        response_index=torch.from_numpy(response_index),
        group_index=torch.from_numpy(owner),
        lengths=torch.from_numpy(size),
        trunk_predict_index=torch.from_numpy(np.concatenate([trunk[:-1] for trunk in trunks])),
        trunk_token_index=torch.from_numpy(np.concatenate([trunk[1:] for trunk in trunks])),
        longest=1 + max(max(row.positions) for row in rows),
        causal=all(row.causal for row in rows),
    )


def _flat(places: list[tuple[int, int]], width: int) -> NDArray[np.int64]:
    table = np.asarray(places, np.int64).reshape(-1, 2)
    return np.asarray(table[:, 0] * width + table[:, 1], np.int64)


def _matrix(rows: list[list[int]], width: int, fill: int) -> Tensor:
    table = np.full((len(rows), width), fill, np.int64)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return torch.from_numpy(table)


def pack_batches(groups: Sequence[Group], max_tokens: int) -> Iterator[tuple[list[int], PackedBatch]]:
    """Packs many groups into batches of at most `max_tokens` tokens, padding included (a longer row stands alone).

    Yields:
        (numbers of the groups in the batch, the batch). Rows of similar length come together, and those without
        branches, so the order of groups is not kept across batches; every group comes once.
    """
    rows = plan_rows(groups)
    branched = [_is_branched([groups[number] for number in row]) for row in rows]
    sizes = [row_tokens([groups[number] for number in row]) for row in rows]
    batch: list[int] = []
    for number in sorted(range(len(rows)), key=lambda index: (branched[index], -sizes[index], index)):
        # Rows come longest first, so the batch's width is its first row's.
        full = bool(batch) and (len(batch) + 1) * sizes[batch[0]] > max_tokens
        if full or (batch and branched[number] != branched[batch[0]]):
            yield _packed(groups, rows, batch)
            batch = []
        batch.append(number)
    if batch:
        yield _packed(groups, rows, batch)


def _packed(groups: Sequence[Group], rows: list[list[int]], batch: list[int]) -> tuple[list[int], PackedBatch]:
    numbers = [group for row in batch for group in rows[row]]
    return numbers, pack([groups[number] for number in numbers])


def _is_branched(groups: Sequence[Group]) -> bool:
    """Whether a row has anything beside its trunk and one response at its end."""
    inner = (
        _goes_on(group, response, following) for group, following in pairwise(groups) for response in group.responses
    )
    return len(groups[-1].responses) > 1 or not all(inner)


def row_tokens(groups: Sequence[Group]) -> int:
    """Tokens of the row of some groups whose prompts extend one another."""
    branches = (
        len(response)
        for group, following in zip(groups, [*groups[1:], None], strict=True)
        for response in group.responses
        if not _goes_on(group, response, following)
    )
    return len(groups[-1].prompt) + sum(branches)


def allowed(packed: PackedBatch) -> Tensor:
    """(R, L, L) bool: which query (dimension 1) may see which key (dimension 2)."""
    query_branch, key_branch = packed.branch_ids.unsqueeze(2), packed.branch_ids.unsqueeze(1)
    query_position, key_position = packed.position_ids.unsqueeze(2), packed.position_ids.unsqueeze(1)
    own = (query_branch == key_branch) & (key_position <= query_position)
    prefix = (key_branch == _TRUNK) & (key_position < packed.visible.unsqueeze(2))
    return own | prefix


def hidden_states(trunk: Any, packed: PackedBatch) -> Tensor:
    """The trunk's last hidden states (after its final norm) of every packed token.

    Returns:
        (R*L, D) in the trunk's dtype; rows of padding hold nothing of meaning.

    Raises:
        BadDataError: a sequence is longer than the trunk treats every text of a batch alike.
    """
    check_reach(trunk, packed.longest)
    with recomputed_layers(trunk):
        if kernels.enabled(trunk) and _is_large(trunk, packed):
            return _states_by_blocks(trunk, packed)
        return _states_by_rows(trunk, packed)


def _states_by_rows(trunk: Any, packed: PackedBatch) -> Tensor:
    """`hidden_states` with a mask of every query and key, where a causal one does not do."""
    plain = packed.causal and packed.input_ids.device.type == "cpu"
    output = _run_causal(trunk, packed) if plain else _run_masked(trunk, packed)
    states: Tensor = output.last_hidden_state
    return states.reshape(-1, states.shape[-1])


def _run_masked(trunk: Any, packed: PackedBatch) -> Any:
    positions = packed.position_ids
    mask = attention_mask(trunk, allowed(packed), positions, positions, packed.longest)
    return trunk(input_ids=packed.input_ids, attention_mask=mask, position_ids=positions, use_cache=False)


def _run_causal(trunk: Any, packed: PackedBatch) -> Any:
    """Padding comes last, so that nobody sees it: half the scores, and no mask to make or to add."""
    nothing_hidden = torch.ones_like(packed.input_ids)
    positions = torch.arange(packed.input_ids.shape[1]).expand_as(packed.input_ids)
    return trunk(input_ids=packed.input_ids, attention_mask=nothing_hidden, position_ids=positions, use_cache=False)


def _is_large(trunk: Any, packed: PackedBatch) -> bool:
    """Whether a block mask is worth its compilation."""
    rows, width = packed.input_ids.shape
    large = rows * width * width > _DENSE and next(trunk.parameters()).dtype in kernels.HALVES
    return large and kernels.compiles()


def _states_by_blocks(trunk: Any, packed: PackedBatch) -> Tensor:
    """`hidden_states` with the rows laid end to end, so that one shape of input fits all batches."""
    layout = packed.block_layout
    output = trunk(
        input_ids=layout.arranged(packed.input_ids, 0).view(1, -1),
        attention_mask=_block_masks(trunk, packed),
        position_ids=layout.arranged(packed.position_ids, 0).view(1, -1),
        use_cache=False,
    )
    states: Tensor = output.last_hidden_state
    return states[0, layout.places]


def _block_masks(trunk: Any, packed: PackedBatch) -> Any:
    """As `attention_mask`; made once for all the models that run the batch."""
    window = sliding_window(trunk.config)
    if window is None or packed.longest <= window:
        return packed.block_mask(None)
    return by_kind(trunk, packed.block_mask(window), lambda: packed.block_mask(None))
