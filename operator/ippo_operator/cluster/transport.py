"""One HTTP request to the API server and its answer, of which lists are read one object at a time.

A page of a list may hold hundreds of objects of a megabyte each, and a tenant decides how large they are. So a body is
never held as a whole: an object is parsed, reduced and forgotten before the next one.
"""

import codecs
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlencode

Keep = Callable[[dict[str, Any]], Any]
"""What is kept of an object; None: nothing."""
MERGE_PATCH = "application/merge-patch+json"
OBJECT_MOST = 12 << 20
"""Bytes of one object. etcd takes 1.5 MiB of it; as JSON that can be some times as much."""
LIST_MOST = 64 << 20
"""Bytes of a listing that one run causes, of which no more than one object is held at a time."""

EVERYTHING = 1 << 40
"""Bytes of a listing of all that there is."""
PIECE = 1 << 18
"""Bytes that are read at once."""
_ITEMS = re.compile(r'"items"\s*:\s*\[')
_BETWEEN = re.compile(r"[\s,]*")
_decode = json.JSONDecoder().raw_decode


@dataclass(frozen=True)
class Request:
    """What is sent, and how much of an answer is read."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    content_type: str = "application/json"
    accept: str = "application/json"
    keep: Keep | None = None
    """Of a list: what is kept of each item. None: the answer is one object."""
    most: int = OBJECT_MOST
    """Bytes of the object, or of one item of the list."""
    whole: int = LIST_MOST
    """Bytes of the list."""
    foreign: bool = False
    """A pod answers it, behind the API server's proxy: the answer is bytes as they came, and no word of the server."""

    @property
    def target(self) -> str:
        """Path and query."""
        query = {name: value for name, value in self.query.items() if value}
        return f"{self.path}?{urlencode(query)}" if query else self.path

    @property
    def writes(self) -> bool:
        """Whether it changes anything."""
        return self.method not in {"GET", "HEAD"}


@dataclass(frozen=True)
class Response:
    """What came back: JSON, or text where it is none; of a pod the bytes, and no headers."""

    status: int
    headers: Mapping[str, str]
    body: Any
    """Of a list: with what was kept of its items."""
    size: int = 0
    """Bytes that were read."""


class Transport(Protocol):
    """Sends requests. Raises UnavailableError where no whole answer came back, TooLargeError where it is too long."""

    async def send(self, request: Request, timeout: float) -> Response:
        """The answer, whatever its status."""


class BodyTooLongError(Exception):
    """More text than was allowed; the message says of what."""


class ListReader:
    """The body of a list, fed in pieces.

    Args:
        keep: is called with each item, at once.
        most: characters of one item, and of all that is around the items.
        whole: characters of all items.
    """

    def __init__(self, keep: Keep, most: int, whole: int) -> None:
        self._keep = keep
        self._most = most
        self._whole = whole
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._text = ""
        self._around: str | None = None
        self._enough = 0
        self._over = False
        self.items: list[Any] = []
        self.size = 0

    def feed(self, piece: bytes) -> None:
        """Raises BodyTooLongError."""
        self._text += self._utf8.decode(piece)
        self.size += len(piece)
        if self.size > self._whole:
            raise BodyTooLongError(f"the list has more than {self._whole >> 20} MiB")
        if self._around is None:
            self._begin()
        if self._around is not None and not self._over and len(self._text) >= self._enough:
            self._take()
        if len(self._text) > self._most:
            raise BodyTooLongError(f"an object has more than {self._most >> 10} KiB")

    def close(self) -> dict[str, Any]:
        """The list with what was kept of its items. Raises ValueError if it was cut off."""
        if self._around is not None and not self._over:
            self._take()
        body = json.loads((self._around or "") + self._text)
        if not isinstance(body, dict):
            raise ValueError("not a list of objects")
        return body | {"items": self.items}

    def _begin(self) -> None:
        start = _ITEMS.search(self._text)
        if start is not None:
            self._around, self._text = self._text[: start.end()], self._text[start.end() :]

    def _take(self) -> None:
        at = 0
        while True:
            at = _skip(self._text, at)
            if self._text.startswith("]", at):
                self._over = True
                break
            try:
                item, end = _decode(self._text, at)
            except ValueError:  # there is more of it to come
                break
            kept = self._keep(item)
            if kept is not None:
                self.items.append(kept)
            at = end
        self._text = self._text[at:]
        # An object that is still open is looked at again once it has doubled, so that it is not parsed for ever.
        self._enough = 0 if self._over else min(2 * len(self._text), self._most)


def _skip(text: str, at: int) -> int:
    match = _BETWEEN.match(text, at)
    return match.end() if match is not None else at
