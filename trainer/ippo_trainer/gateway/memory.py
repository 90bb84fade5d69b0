"""What a replica remembers of conversations, in bounded memory: it is lost at a restart, and nothing depends on it but
that fewer conversations change hands."""

from collections import OrderedDict
from typing import Generic, TypeVar

from ippo_trainer.gateway.arms import Earlier

_T = TypeVar("_T")
MOST = 100_000
"""Entries; about 300 bytes each."""


class Recent(Generic[_T]):
    """The entries that were last written or asked for."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._entries: OrderedDict[str, _T] = OrderedDict()

    def get(self, name: str) -> _T | None:
        """The entry; None where it was never there, or others pushed it out."""
        if name not in self._entries:
            return None
        self._entries.move_to_end(name)
        return self._entries[name]

    def put(self, name: str, entry: _T) -> None:
        """Writes an entry."""
        self._entries[name] = entry
        self._entries.move_to_end(name)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)


class Memory:
    """Conversations and suggestions that this replica has met."""

    def __init__(self, most: int = MOST) -> None:
        self.conversations: Recent[Earlier] = Recent(most)
        """By id: who answered."""
        self.suggestions: Recent[str] = Recent(most)
        """By the answer's id: its conversation."""
