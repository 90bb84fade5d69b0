"""What was suggested where situations come again: where only one thing ever was, Q has nothing to compare.

A situation is what the business sent last and what the customer answered, whatever the case, the punctuation and the
numbers. Of a long log a random part of the situations is kept, chosen by their digests, so memory is bounded.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence

from ippo_trainer.data.schema import Turn

LEAST = 3
"""Times that a situation has to be met to say what was suggested there."""
MOST = 1 << 17
"""Situations that are kept."""
_WORD = re.compile(r"[^\W\d_]+|\d+")
_SEVERAL = 0


def plain(text: str) -> str:
    """Its words, by which texts are alike: no case, no punctuation, every number the same."""
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return " ".join("0" if word.isdigit() else word for word in words)


def digest(text: str) -> int:
    """Eight bytes that stand for a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


class Situations:
    """Counts over the turns of a log."""

    def __init__(self) -> None:
        self._times: dict[int, int] = {}
        self._only: dict[int, int] = {}
        """By situation, the digest of the one thing that was suggested there, or `_SEVERAL`."""
        self._share = 1
        """One in so many situations is kept."""

    def add(self, turns: Sequence[Turn]) -> None:
        """Takes a conversation's."""
        before = ""
        for turn in turns:
            key = digest(f"{plain(before)}\0{plain(turn.customer_message)}")
            before = turn.sent_message
            if key % self._share == 0:
                said = digest("" if turn.suggestion is None else f"\0{plain(turn.suggestion)}") or 1
                self._times[key] = self._times.get(key, 0) + 1
                if self._only.setdefault(key, said) != said:
                    self._only[key] = _SEVERAL
        while len(self._times) > MOST:
            self._share *= 2
            for table in (self._times, self._only):
                for key in [key for key in table if key % self._share]:
                    del table[key]

    def to_json(self) -> dict[str, int]:
        """Estimates where only a part was kept: situations, those met at least `LEAST` times, turns in these; and of
        both those in which only one thing was ever suggested."""
        again = {key: times for key, times in self._times.items() if times >= LEAST}
        alone = {key: times for key, times in again.items() if self._only[key] != _SEVERAL}
        return {
            "different": self._share * len(self._times),
            "again": self._share * len(again),
            "turns": self._share * sum(again.values()),
            "oneSuggestion": self._share * len(alone),
            "turnsOfOne": self._share * sum(alone.values()),
        }
