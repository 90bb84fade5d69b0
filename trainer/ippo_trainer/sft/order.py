"""In which order rows are trained on: shuffled, of like length within a batch, the same for a seed."""

from collections.abc import Sequence

import numpy as np

_BATCHES_PER_SORT = 50


def training_order(lengths: Sequence[int], epochs: int, batch_size: int, seed: int) -> list[int]:
    """Row indices for all epochs in one stream; consecutive `batch_size` of them make an update.

    Each epoch is a permutation. Stretches of 50 batches are sorted by length and cut into batches, whose order is
    shuffled again: padding costs almost nothing, and no row's company depends on anything but the seed.
    Only the last batch of the stream may be short.
    """
    rng = np.random.default_rng(seed)
    sizes = np.asarray(lengths)
    stream = np.concatenate([rng.permutation(len(sizes)) for _ in range(epochs)])
    order: list[int] = []
    for start in range(0, len(stream), batch_size * _BATCHES_PER_SORT):
        stretch = stream[start : start + batch_size * _BATCHES_PER_SORT]
        whole = len(stretch) // batch_size * batch_size
        # The rest that fills no batch stays at the end, so that every batch but the stream's last is full.
        head, rest = stretch[:whole], stretch[whole:]
        batches = head[np.argsort(sizes[head], kind="stable")].reshape(-1, batch_size)
        order += batches[rng.permutation(len(batches))].ravel().tolist() + rest.tolist()
    return order


def updates_of_new_rows(rows: int, epochs: int, batch_size: int) -> int:
    """So many updates of a `training_order` come before any row's second time."""
    first = rows // batch_size
    return first if epochs == 1 else first // _BATCHES_PER_SORT * _BATCHES_PER_SORT
