r"""What of a suggestion stays as it is, whatever comes after it, told character by character.

What may change is at its end: white space, backslashes and the beginning of a marker, which may be an escaped one, and
white space again: `L* \* ([a-z…)? L*`. And all of it, as long as it may become an abstention.
"""

from ippo_trainer.text.markers import ABSTAIN, MARKERS, TOOL, unescape

HALF = "\ufffd"
"""A character of which not all tokens have come."""
_LONGEST = max(map(len, (*MARKERS, TOOL))) - len("[]")
"""Letters of a marker."""
_CERTAIN, _LOOSE, _ESCAPE, _MARKER, _LOOSE_AGAIN = range(5)
"""What a text ends with."""


class CertainText:
    """Takes a suggestion as its tokens spell it, and gives what is certain of it, without escapes."""

    def __init__(self) -> None:
        self._held: list[str] = []
        self._given = self._end = 0
        """Characters that were given, and those that have come."""
        self._start = self._loose = 0
        """Where that begins which may change, and the newest white space."""
        self._state, self._letters = _CERTAIN, 0
        self._may_abstain = True

    def take(self, text: str) -> str:
        """What is certain now and was not before."""
        if not text:
            return ""
        self._held.append(text)
        for character in text:
            self._step(character)
        if self._may_abstain and text.strip():  # white space alone would be looked at again and again
            self._may_abstain = ABSTAIN.startswith("".join(self._held).strip())
        if self._may_abstain or self._start == self._given:
            return ""
        held, size = "".join(self._held), self._start - self._given
        self._held, self._given = [held[size:]], self._start
        return unescape(held[:size])

    def _step(self, character: str) -> None:
        here, state = self._end, self._state
        self._end += 1
        if character.isspace() or character == HALF:
            self._state = _LOOSE if state in (_CERTAIN, _LOOSE) else _LOOSE_AGAIN
            self._start = here if state == _CERTAIN else self._start
            self._loose = self._loose if state == self._state else here
        elif character in "\\[":
            if state in (_CERTAIN, _MARKER):
                self._start = here
            elif state == _LOOSE_AGAIN:
                self._start = self._loose
            self._state, self._letters = (_ESCAPE if character == "\\" else _MARKER), 0
        elif state == _MARKER and self._letters < _LONGEST and "a" <= character <= "z":
            self._letters += 1
        else:
            self._state, self._start = _CERTAIN, self._end
