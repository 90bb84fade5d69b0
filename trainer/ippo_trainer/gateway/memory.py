"""What a replica remembers of conversations, in bounded memory: it is lost at a restart, and nothing depends on it but
that fewer conversations change hands."""

from typing import Generic, TypeVar

from ippo_trainer.gateway.arms import Earlier

_T = TypeVar("_T")
MOST = 50_000
"""Entries; about 150 bytes each."""


class Recent(Generic[_T]):
    """Entries, of which at least the newer half of `most` are kept, by when they were last written or asked for.

    Names are kept as their hashes, 64 bits that a secret of this process decides, so nobody can make two collide.
    """

    def __init__(self, most: int = MOST) -> None:
        self._half = max(1, most // 2)
        self._newer: dict[int, _T] = {}
        self._older: dict[int, _T] = {}

    def __len__(self) -> int:
        """Entries that are kept."""
        return len(self._newer) + len(self._older)

    def get(self, name: str) -> _T | None:
        """The entry; None where it was never there, or others pushed it out."""
        key = hash(name)
        if key not in self._newer and key in self._older:
            self._write(key, self._older.pop(key))
        return self._newer.get(key)

    def put(self, name: str, entry: _T) -> None:
        """Writes an entry."""
        key = hash(name)
        self._older.pop(key, None)
        self._write(key, entry)

    def _write(self, key: int, entry: _T) -> None:
        if key not in self._newer and len(self._newer) >= self._half:
            self._newer, self._older = {}, self._newer
        self._newer[key] = entry


class Memory:
    """Conversations and suggestions that this replica has met."""

    def __init__(self, most: int = MOST) -> None:
        self.conversations: Recent[Earlier] = Recent(most)
        """By id: who answered."""
        self.suggestions: Recent[int] = Recent(most)
        """By the answer's id: the hash of its conversation's."""
        self._turns: Recent[bool] = Recent(most)

    def suggested(self, suggestion: str, conversation: str, turn: int) -> None:
        """Notes an answer: its id, and where it belongs."""
        self.suggestions.put(suggestion, hash(conversation))
        self._turns.put(f"{turn} {conversation}", True)

    def knows(self, suggestion: str, conversation: str, turn: int) -> bool:
        """Whether there was an answer of this id or, where none is given, in this turn."""
        if suggestion:
            return self.suggestions.get(suggestion) is not None
        return self._turns.get(f"{turn} {conversation}") is not None
