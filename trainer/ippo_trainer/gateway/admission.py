"""How much may be under way at once: requests, and bytes of their bodies."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ippo_trainer.http.ending import Ending
from ippo_trainer.http.errors import RequestError
from ippo_trainer.http.limits import LOGGED_BYTES


@dataclass(frozen=True)
class GatewayLimits:
    """What one client, and all of them together, may take."""

    requests: int = 512
    """Under way at once."""
    body_bytes: int = LOGGED_BYTES
    """Of a chat request."""
    report_bytes: int = 64 << 10
    """Of any other."""
    all_bytes: int = 64 << 20
    """Of all bodies under way."""
    choices: int = 4
    """Of one answer."""
    body_seconds: float = 15.0
    """In which a body has to come."""
    write_seconds: float = 30.0
    """In which a client has to take what is sent."""
    idle_seconds: float = 75.0
    """That a connection may stay without a request."""


class Admission:
    """Counts what is under way, and refuses what is too much."""

    def __init__(self, limits: GatewayLimits, ending: Ending) -> None:
        self._limits, self._ending = limits, ending
        self._bytes = 0

    @contextmanager
    def request(self) -> Iterator[None]:
        """A request, while it is under way. Raises RequestError, 429, if there are too many."""
        under_way = self._ending.in_flight
        if under_way >= self._limits.requests:
            raise RequestError(429, f"{under_way} requests are under way already; try again, or add replicas")
        with self._ending.request():
            yield

    @contextmanager
    def body(self, size: int) -> Iterator[None]:
        """A body of at most so many bytes, while it is needed. Raises RequestError, 429, if there is no room."""
        if self._bytes + size > self._limits.all_bytes:
            raise RequestError(429, "the bodies of the requests under way take too much memory; try again")
        self._bytes += size
        try:
            yield
        finally:
            self._bytes -= size
