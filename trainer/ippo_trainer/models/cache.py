"""A key-value cache whose rows have lengths of their own, and a memory of prefixes from one turn to the next.

transformers' DynamicCache aligns the rows of a batch, so it needs padding between a short prefix and what follows, and
copies itself for every token. Here a row's token of position p sits in column p, whatever the other rows do; a query
sees the columns up to its own.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

MEMORY_BYTES = 1 << 30
PATIENCE = 8
"""Calls for which two agents that share conversations remember those of which the other has the turn: an explorer has
each third turn or fewer."""


@dataclass(slots=True)
class _Place:
    """Where the next forward's tokens go; see `RaggedCache.place`."""

    rows: slice
    positions: Tensor
    width: int
    plain: bool


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one decoder layer, (rows, heads, capacity, head width); the two widths may differ."""

    is_sliding = False

    def __init__(self, rows: int, capacity: int) -> None:
        super().__init__()
        self.is_initialized = False
        self.rows = rows
        self.capacity = capacity
        self.place: _Place | None = None

    def allocate(self, keys: Tensor, values: Tensor) -> None:
        """Allocates on first use, when heads, widths, type and device are known from (…, heads, …, head width)."""
        if not self.is_initialized:
            # Zeros, not empty: a masked column has weight 0, and 0 * NaN would still be NaN.
            self.keys, self.values = (
                like.new_zeros((self.rows, like.shape[1], self.capacity, like.shape[3])) for like in (keys, values)
            )
            self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.allocate(key_states, value_states)

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        self.allocate(key_states, value_states)
        place = self.place
        assert place is not None  # RaggedCache.place comes before every forward
        keys, values = self.keys[place.rows], self.values[place.rows]
        if place.plain:
            keys[:, :, : key_states.shape[2]] = key_states
            values[:, :, : key_states.shape[2]] = value_states
        else:
            rows = torch.arange(len(keys), device=keys.device).unsqueeze(1)
            keys[rows, :, place.positions] = key_states.transpose(1, 2)
            values[rows, :, place.positions] = value_states.transpose(1, 2)
        return keys[:, :, : place.width], values[:, :, : place.width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length(), 0

    def get_seq_length(self) -> int:
        return self.place.width if self.place is not None else 0

    def get_max_length(self) -> int:
        return self.capacity


class RaggedCache(Cache):  # type: ignore[misc]
    """Keys and values of `rows` sequences of at most `capacity` tokens, for a decoder of `layers` layers."""

    def __init__(self, layers: int, rows: int, capacity: int) -> None:
        super().__init__(layers=[_Layer(rows, capacity) for _ in range(layers)])

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers if layer.is_initialized)

    @property
    def token_bytes(self) -> int:
        """Of one token of one row; 0 as long as nothing is held."""
        return self.nbytes // (int(self.layers[0].rows) * int(self.layers[0].capacity))

    @property
    def plain(self) -> bool:
        """Whether the next forward's tokens are whole texts, from the first column on."""
        place = self.layers[0].place
        return place is not None and place.plain

    def place(self, positions: Tensor, *, first: int, width: int, plain: bool) -> None:
        """Says where the next forward's tokens go.

        Args:
            positions: (n, tokens), their columns; what a padding token writes is overwritten before it is seen.
            first: they go to the rows first to first + n - 1.
            width: columns that the forward may look at.
            plain: every row's columns are 0, 1, 2, …
        """
        for layer in self.layers:
            layer.place = _Place(slice(first, first + len(positions)), positions, width, plain)

    def copy_from(self, source: "RaggedCache", to_rows: Tensor, from_rows: Tensor, width: int) -> None:
        """Copies the first `width` columns of another cache's rows, as far as it has them."""
        width = min(width, source.layers[0].capacity)
        for mine, theirs in zip(self.layers, source.layers, strict=True):
            mine.allocate(theirs.keys, theirs.values)
            mine.keys[to_rows, :, :width] = theirs.keys[from_rows, :, :width]
            mine.values[to_rows, :, :width] = theirs.values[from_rows, :, :width]

    def swap(self, some: Tensor, others: Tensor, width: int) -> None:
        """Exchanges the first `width` columns of rows; in place, so that a batch shrinks without being copied."""
        both, exchanged = torch.cat([some, others]), torch.cat([others, some])
        for layer in self.layers:
            layer.keys[both, :, :width] = layer.keys[exchanged, :, :width]
            layer.values[both, :, :width] = layer.values[exchanged, :, :width]


@dataclass(frozen=True, slots=True)
class Remembered:
    """The keys and values of `ids` are in columns 0 to len(ids) - 1 of a cache's row."""

    ids: list[int]
    cache: RaggedCache
    row: int
    age: int = 0
    """Calls since."""

    def shared(self, prompt: Sequence[int]) -> int:
        """How many of the prompt's first tokens need not be computed; the last one always is, its state is needed."""
        limit = len(prompt) - 1
        if len(self.ids) <= limit and prompt[: len(self.ids)] == self.ids:
            return len(self.ids)
        pairs = zip(self.ids, prompt[:limit], strict=False)
        return next((count for count, (mine, theirs) in enumerate(pairs) if mine != theirs), min(len(self.ids), limit))


@dataclass(slots=True)
class PrefixMemory:
    """What `sample` computed, by slot (a conversation): its next turn computes only what is new.

    It changes no result beyond float rounding. Beyond `limit` bytes nothing more is kept. A slot that is not asked
    about, as where another agent has the turn, is kept for `patience` calls: none where nobody else has turns, since
    the conversation is over then.
    """

    limit: int = MEMORY_BYTES
    patience: int = 0
    entries: dict[int, Remembered] = field(default_factory=dict)

    def renew(self, rows: dict[int, Remembered], asked: Collection[int]) -> None:
        """Keeps these, and of the slots that were not asked about those that are not too old, up to the limit."""
        rest = {slot: entry for slot, entry in self.entries.items() if slot not in asked and entry.age < self.patience}
        self.entries = {}
        self.add(rows)
        self.entries |= _compact(rest, self.limit - self._bytes())

    def add(self, rows: dict[int, Remembered]) -> None:
        """Keeps these, too, up to the limit."""
        used = {id(entry.cache): entry.cache.nbytes for entry in self.entries.values()}
        for slot, entry in rows.items():
            if id(entry.cache) not in used:
                if sum(used.values()) + entry.cache.nbytes > self.limit:
                    continue
                used[id(entry.cache)] = entry.cache.nbytes
            self.entries[slot] = entry

    def _bytes(self) -> int:
        return sum({id(entry.cache): entry.cache.nbytes for entry in self.entries.values()}.values())


def _compact(entries: dict[int, Remembered], limit: int) -> dict[int, Remembered]:
    """The entries in a cache of their own, the newest first and as many as have room, each one call older: a row that
    is kept must not keep the batch that it was in."""
    kept = sorted(entries.items(), key=lambda item: (item[1].age, item[0]))
    rows, columns = 0, 0
    for _, entry in kept:
        columns = max(columns, len(entry.ids))
        if (rows + 1) * columns * entry.cache.token_bytes > limit:
            break
        rows += 1
    kept = kept[:rows]
    if not kept:
        return {}
    columns = max(len(entry.ids) for _, entry in kept)
    cache = RaggedCache(len(kept[0][1].cache.layers), rows, columns)
    sources = {id(entry.cache): entry.cache for _, entry in kept}
    for name, source in sources.items():
        places = [(row, entry.row) for row, (_, entry) in enumerate(kept) if id(entry.cache) == name]
        to_rows, from_rows = torch.tensor(places, device=source.layers[0].keys.device).T
        cache.copy_from(source, to_rows, from_rows, columns)
    return {slot: Remembered(entry.ids, cache, row, entry.age + 1) for row, (slot, entry) in enumerate(kept)}
