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
        cut = min((place for place in map(text.find, self._stops) if place >= 0), default=None)
        if cut is not None:
            text, last, self.stopped = text[:cut], True, True
        if last:
            self.text, self.abstains = text, suggestion is None
            settled = len(text)
        else:
            settled = 0 if ABSTAIN.startswith(text.strip()) else self._settled(text)
        part = text[self._sent : settled]
        self._sent = max(self._sent, settled)
        return part

    def _settled(self, text: str) -> int:
        """How much of it stays as it is, whatever comes."""
        found = _UNSETTLED.search(text)
        end = found.start() if found else len(text)
        for stop in self._stops:
            longest = min(len(stop) - 1, len(text))
            held = next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
            end = min(end, len(text) - held)
        return end
