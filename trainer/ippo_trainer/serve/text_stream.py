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
        self._renderer, self._stops = renderer, stops
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
    def tokens(self) -> int:
        """How many have come."""
        return len(self._ids)

    def push(self, ids: Sequence[int], last: bool) -> str:
        """Takes the next tokens and returns the text that is certain by now and was not returned before."""
        self._ids += ids
        suggestion = self._renderer.decode(self._ids)[0] if last else self._renderer.begun(self._spell())
        text = suggestion or ""
        certain = len(text) if last else _certain(text)
        cut = self._cut(text[:certain])
        if cut is not None:
            text, certain, last, self.stopped = text[:cut], cut, True, True
        if last:
            self.text, self.abstains = text, suggestion is None
        else:
            certain -= self._held(text[:certain])
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

    def _cut(self, text: str) -> int | None:
        """Where the stop text begins that was complete first."""
        found = [(text.find(stop) + len(stop), text.find(stop)) for stop in self._stops if stop in text]
        return min(found)[1] if found else None

    def _held(self, text: str) -> int:
        """Characters at the end that may be the beginning of a stop text."""
        longest = max(map(len, self._stops), default=0)
        tails = range(min(longest - 1, len(text)), 0, -1)
        return next((n for n in tails if any(stop.startswith(text[-n:]) for stop in self._stops)), 0)


def _certain(text: str) -> int:
    """How many characters stay as they are, whatever tokens come: not half a character, white space before the end, the
    beginning of an escaped marker."""
    if ABSTAIN.startswith(text.strip()):
        return 0
    text = text.rstrip(_LOOSE)
    begins = _MARKER_BEGINS.search(text, max(0, len(text) - _MARKER_SIZE))
    return len((text[: begins.start()] if begins else text).rstrip("\\").rstrip(_LOOSE))
