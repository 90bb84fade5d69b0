"""Random numbers that depend on (seed, turn, purpose) only.

Each conversation has its own streams, so it does not matter which others share its batch; and two policies that play
the same seed meet the same customer with the same luck (common random numbers), which makes their difference precise.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Seeds = NDArray[np.uint64]
_ROTATION = np.uint64(0x9E3779B97F4A7C15)


def as_seeds(seeds: Sequence[int]) -> Seeds:
    """The seeds as a uint64 array; raises ValueError unless all are in [0, 2**64)."""
    if any(not 0 <= seed < 2**64 for seed in seeds):
        raise ValueError("seeds must be integers from 0 to 2**64 - 1")
    return np.array(seeds, dtype=np.uint64)


def _mix(x: Seeds) -> Seeds:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): a bijection whose output looks random."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniforms(seeds: Seeds, turn: int, purpose: int) -> NDArray[np.float64]:
    """One number in [0, 1) per seed. `purpose` (< 64) tells the draws of one turn apart."""
    counter = np.uint64(turn * 64 + purpose + 1)
    with np.errstate(over="ignore"):
        bits = _mix(_mix(seeds + _ROTATION) ^ (counter * _ROTATION))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def categorical(probabilities: NDArray[np.float64], u: NDArray[np.float64]) -> NDArray[np.int64]:
    """Inverse-CDF draws: one column index per row of `probabilities` (N, K), or of one (K,) for all, by `u` (N,)."""
    table = np.atleast_2d(probabilities)
    # Never beyond the last column that is possible at all, whatever rounding does to the sum.
    last = table.shape[-1] - 1 - np.argmax(table[:, ::-1] > 0, axis=-1)
    columns: NDArray[np.int64] = np.minimum((u[:, None] >= np.cumsum(table, axis=-1)).sum(-1), last)
    return columns


def choose(count: int, u: NDArray[np.float64]) -> NDArray[np.int64]:
    """A uniform choice of 0 … count - 1 per element of `u`."""
    return np.minimum((u * count).astype(np.int64), count - 1)


def pick(texts: Sequence[str], u: float) -> str:
    """A uniform choice of one text, by `u` in [0, 1)."""
    return texts[min(int(u * len(texts)), len(texts) - 1)]
