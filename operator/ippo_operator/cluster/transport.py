"""One HTTP request to the API server and its answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlencode

from ippo_operator.cluster.streams import Keep

OBJECT_MOST = 12 << 20
"""Bytes of one object. etcd takes 1.5 MiB of it; as JSON that can be some times as much."""
LIST_MOST = 64 << 20
"""Bytes of a listing that one run causes, of which no more than one object is held at a time."""

EVERYTHING = 1 << 40
"""Bytes of a listing of all that there is."""
PIECE = 1 << 18
"""Bytes that are read at once."""


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
    """What came back: JSON, or text where it is none."""

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
