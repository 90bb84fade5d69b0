"""Turns a response's tokens into text as they come; the parts add up to what `Renderer.decode` says of all of them."""

import re
from collections.abc import Sequence

from ippo_trainer.text.markers import ABSTAIN
from ippo_trainer.text.render import Renderer

# What later tokens may still change: half a character, white space before the end, the beginning of an escaped marker.
_UNSETTLED = re.compile(r"(?:\s|\ufffd)*(?:\\*(?:\[[a-z]{0,8})?)?(?:\s|\ufffd)*$")


class TextStream:
    """The text of one sample.

    Args:
        renderer: of the policy.
        stops: texts before which the response ends; they are not part of it.
    """

    def __init__(self, renderer: Renderer, stops: Sequence[str] = ()) -> None:
        self._renderer, self._stops = renderer, stops
        self._ids: list[int] = []
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
        suggestion, _ = self._renderer.decode(self._ids)
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
    """How many characters stay as they are, whatever tokens come."""
    if ABSTAIN.startswith(text.strip()):
        return 0
    found = _UNSETTLED.search(text)
    return found.start() if found else len(text)
