"""Turns a response's tokens into text as they come; the parts add up to what `Renderer.decode` says of all of them."""

import re
import sys
from collections.abc import Sequence

from ippo_trainer.text.markers import ABSTAIN
from ippo_trainer.text.render import Renderer

_HALF = "\ufffd"
"""A character of which not all tokens have come."""
_LOOSE = "".join(filter(str.isspace, map(chr, range(sys.maxunicode + 1)))) + _HALF
_MARKER_BEGINS = re.compile(r"\[[a-z]{0,8}\Z")
_MARKER_SIZE = 9


class TextStream:
    """The text of one sample.

    Args:
        renderer: of the policy.
        stops: texts before which the response ends; they are not part of it.
    """

    def __init__(self, renderer: Renderer, stops: Sequence[str] = ()) -> None:
        self._renderer = renderer
        self._stops = [_Stop(stop) for stop in stops]
        self._looked = 0
        """Characters that the stop texts were looked for in."""
        self._ids: list[int] = []
        self._spelt, self._context, self._read = "", 0, 0
        self._sent = 0
        self.text = ""
        """All of it, once it is over."""
        self.abstains = False
        """Whether it suggests nothing; known when it is over."""
        self.stopped = False
        """Whether one of the stop texts has ended it."""

    @property
    def ids(self) -> list[int]:
        """The tokens that have come."""
        return self._ids

    @property
    def tokens(self) -> int:
        """How many have come."""
        return len(self._ids)

    def push(self, ids: Sequence[int], last: bool) -> str:
        """Takes the next tokens and returns the text that is certain by now and was not returned before."""
        self._ids += ids
        suggestion = self._renderer.decode(self._ids)[0] if last else self._renderer.suggestion_text(self._spell())
        text = suggestion or ""
        certain = len(text) if last else _certain(text)
        cut = self._cut(text, certain)
        if cut is not None:
            text, certain, last, self.stopped = text[:cut], cut, True, True
        if last:
            self.text, self.abstains = text, suggestion is None
        else:
            certain -= max((stop.matched for stop in self._stops), default=0)
        part = text[self._sent : certain]
        self._sent = max(self._sent, certain)
        return part

    def _spell(self) -> str:
        """What the tokens spell so far. Only the newest are decoded, behind a few before them: how a token is spelt
        may depend on whether it is the first."""
        before = self._renderer.text(self._ids[self._context : self._read])
        spelt = self._spelt + self._renderer.text(self._ids[self._context :])[len(before) :]
        if not spelt.endswith(_HALF):
            self._spelt, self._context, self._read = spelt, self._read, len(self._ids)
        return spelt

    def _cut(self, text: str, certain: int) -> int | None:
        """Where the stop text begins that is complete first among the certain characters."""
        for position in range(self._looked, certain) if self._stops else ():
            complete = [len(stop.text) for stop in self._stops if stop.follows(text[position])]
            if complete:
                return position + 1 - max(complete)
        self._looked = max(self._looked, certain)
        return None


class _Stop:
    """Looks for a text character by character, each time in constant time on average (Knuth, Morris and Pratt 1977)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        """Characters at the end, so far, with which the text begins."""
        self._borders = [0]  # by length of a beginning - 1: the longest shorter beginning that is also its end

    def follows(self, character: str) -> bool:
        """Takes the next character; whether it completes the text."""
        matched = self.matched if self.matched < len(self.text) else self._border(self.matched)
        self.matched = self._longer(matched, character)
        return self.matched == len(self.text)

    def _longer(self, size: int, character: str) -> int:
        while size and self.text[size] != character:
            size = self._border(size)
        return size + (self.text[size] == character)

    def _border(self, size: int) -> int:
        while len(self._borders) < size:
            self._borders.append(self._longer(self._borders[-1], self.text[len(self._borders)]))
        return self._borders[size - 1]


def _certain(text: str) -> int:
    """How many characters stay as they are, whatever tokens come: not half a character, white space before the end, the
    beginning of an escaped marker."""
    if ABSTAIN.startswith(text.strip()):
        return 0
    text = text.rstrip(_LOOSE)
    begins = _MARKER_BEGINS.search(text, max(0, len(text) - _MARKER_SIZE))
    return len((text[: begins.start()] if begins else text).rstrip("\\").rstrip(_LOOSE))
