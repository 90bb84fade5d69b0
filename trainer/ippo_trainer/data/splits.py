"""Splits by conversation: turns of one conversation never end up on both sides."""

import hashlib
from collections.abc import Sequence


def split(conversation_ids: Sequence[str], holdout: float, seed: int) -> tuple[list[str], list[str]]:
    """Splits ids into (train, held out), each in the order given.

    The side of an id depends on the id and the seed only, so it stays put when the order changes or when more
    conversations come. With a holdout strictly between 0 and 1 and two or more ids, no side is empty: the id that is
    nearest to the other side moves there.
    """
    unique = list(dict.fromkeys(conversation_ids))
    draws = {key: _uniform(key, seed) for key in unique}
    heldout = {key for key, draw in draws.items() if draw < holdout}
    if 0 < holdout < 1 and len(unique) >= 2:
        if not heldout:
            heldout = {min(unique, key=lambda key: (draws[key], key))}
        elif len(heldout) == len(unique):
            heldout.remove(max(unique, key=lambda key: (draws[key], key)))
    return [key for key in unique if key not in heldout], [key for key in unique if key in heldout]


def _uniform(key: str, seed: int) -> float:
    """A number in [0, 1) from the id and the seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:6], "big") / 2**48
