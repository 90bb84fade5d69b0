"""Turns a response's tokens into text as they come; the parts add up to what `Renderer.decode` says of all of them.

All of it takes time in proportion to the number of tokens, whatever they spell.
"""

from collections.abc import Iterable, Sequence

from ippo_trainer.serve.certain_text import HALF, CertainText
from ippo_trainer.text.answers import shared
from ippo_trainer.text.render import Renderer

_MOST_HALVES, _NEWEST = 32, 8
"""Tokens at the end that spell no whole character, and those of them that later ones may change: a character has at
most four."""


class TextStream:
    """The text of one sample.

    Args:
        renderer: of the policy.
        stops: texts before which the response ends; they are not part of it.
    """

    def __init__(self, renderer: Renderer, stops: Sequence[str] = ()) -> None:
        self._renderer = renderer
        self._stops = [_Stop(stop) for stop in stops]
        self._ids: list[int] = []
        self._context = self._read = self._taken = 0
        """Tokens before `read` are read, those from `context` on are decoded again before others, and so many
        characters behind `read` are taken already."""
        self._lead = renderer.lead
        self._certain = CertainText()
        self._characters: list[str] = []
        """That are certain."""
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
        suggestion = self._renderer.decode(self._ids)[0] if last else None
        more = (suggestion or "")[len(self._characters) :] if last else self._certain.take(self._newest())
        cut = self._cut(more)
        self.stopped = cut is not None
        if cut is not None or last:
            self.abstains = last and suggestion is None
            end = len(self._characters) if cut is None else cut
            self.text = "".join(self._characters[:end])
        else:
            end = len(self._characters) - max((stop.matched for stop in self._stops), default=0)
        part = "".join(self._characters[self._sent : end])
        self._sent = max(self._sent, end)
        return part

    def _newest(self) -> str:
        """What the newest tokens add to the suggestion's text, whole characters alone. Only they are decoded, behind a
        few before them: how a token is spelt may depend on whether it is the first."""
        before = len(self._renderer.text(self._ids[self._context : self._read]))
        spelt = self._renderer.text(self._ids[self._context :])[before:]
        settled, end = spelt.rstrip(HALF), len(self._ids)
        if len(settled) < len(spelt) and end - self._read > _MOST_HALVES:
            head = self._renderer.text(self._ids[self._context : end - _NEWEST])[before:]
            if spelt.startswith(head):
                settled, spelt, end = head, head, end - _NEWEST
        newest, self._taken = settled[self._taken :], max(self._taken, len(settled))
        if len(settled) == len(spelt):
            self._context, self._read, self._taken = self._read, end, self._taken - len(settled)
        return self._without_lead(newest)

    def _without_lead(self, newest: str) -> str:
        if not self._lead:
            return newest
        size = shared(self._lead, newest)
        self._lead = self._lead[size:] if size == len(newest) else ""
        return newest[size:]

    def _cut(self, more: Iterable[str]) -> int | None:
        """Takes characters that are certain; where the stop text begins that is complete first among them."""
        for character in more:
            self._characters.append(character)
            complete = [len(stop.text) for stop in self._stops if stop.follows(character)]
            if complete:
                return len(self._characters) - max(complete)
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
