"""One HTTP request to the API server and its answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlencode


@dataclass(frozen=True)
class Request:
    """What is sent."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    content_type: str = "application/json"
    accept: str = "application/json"

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


class Transport(Protocol):
    """Sends requests. Raises UnavailableError where no whole answer came back."""

    async def send(self, request: Request, timeout: float) -> Response:
        """The answer, whatever its status."""
