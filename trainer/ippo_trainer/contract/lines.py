"""Text that others wrote, made fit to be shown and stored: printable, in one line, valid UTF-8, bounded in bytes.

Others are stages and their images, customers, other operators and everybody who may write to an API server. What they
write must neither move a terminal's cursor, nor hide or reorder what stands beside it, nor forge a line of a log.
"""

import re
import unicodedata
from typing import Annotated

from pydantic import BeforeValidator

_WASTE = "\ufffd"
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Fillers and selectors that count as printable and show nothing."""
_AHEAD = 8
"""How many characters are looked at for each byte of a bound: the rest of a long text is not worth its time."""


def printable(text: str) -> str:
    """The text with nothing in it that a terminal obeys or does not show.

    Line breaks and tabs become blanks. Invisible characters, those that turn the direction of writing among them, are
    left out; controls, halves of characters (lone surrogates) and characters that no standard knows become U+FFFD.
    """
    if text.isprintable() and _UNSEEN.search(text) is None:
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isspace():
        return " "
    if _UNSEEN.match(character) or unicodedata.category(character) == "Cf":
        return ""
    return character if character.isprintable() else _WASTE


def cut(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8, whole characters; what was cut ends in an ellipsis."""
    body = text.encode(errors="replace")
    return text if len(body) <= limit else body[: max(0, limit - 3)].decode(errors="ignore") + "…"


def one_line(text: str, limit: int | None = None) -> str:
    """The text `printable`, in one line without blanks at its ends or in a row, in at most `limit` bytes."""
    if limit is None:
        return " ".join(printable(text).split())
    return cut(" ".join(printable(text[: limit * _AHEAD]).split()), limit)


def _line(value: object) -> object:
    return one_line(value) if isinstance(value, str) else value


Line = Annotated[str, BeforeValidator(_line)]
"""A field of text that others wrote; `one_line` of what is given."""
