"""Names that are nearly those of known fields: an optional field with a slip of the pen would be passed over."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches

_NEAR = 0.84
_LONGEST = 40


def misspelt(names: Iterable[str], known: Collection[str]) -> dict[str, str]:
    """Unknown names and the known one, absent so far, that each of them probably means."""
    present = set(names)
    absent = {_plain(name): name for name in known if name not in present}
    corrections = {}
    for name in present.difference(known):
        near = get_close_matches(_plain(name), absent, 1, _NEAR) if len(name) <= _LONGEST else []
        if near:
            corrections[name] = absent[near[0]]
    return corrections


def _plain(name: str) -> str:
    """`finalOutcome`, `Final-Outcome` and `final_outcome` are one."""
    return "".join(filter(str.isalnum, name)).casefold()
