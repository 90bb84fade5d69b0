"""How a server ends: what has come is answered, and then nothing more is taken."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from aiohttp import web

_log = logging.getLogger(__name__)


class Ending:
    """The requests of a server that are under way, and whether it takes more."""

    def __init__(self) -> None:
        self.draining = False
        """Not ready any more, and connections are closed after their answer; requests that still come are answered."""
        self.closed = False
        """Requests get 503."""
        self.in_flight = 0
        """Requests under way."""
        self._idle = asyncio.Event()
        self._idle.set()

    def install(self, app: web.Application) -> None:
        """For all routes."""
        app.on_response_prepare.append(self._close_when_draining)

    @contextmanager
    def request(self) -> Iterator[None]:
        """A request is under way meanwhile."""
        self.in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    async def idle(self) -> None:
        """Waits until no request is under way."""
        await self._idle.wait()

    async def drain(self, linger: float, grace: float, runner: web.AppRunner | None = None) -> None:
        """Answers what there is. Clients with open connections do not know yet that they should go elsewhere.

        Args:
            linger: seconds in which requests that still come are answered.
            grace: seconds after which it is over.
            runner: lets nobody new in after `linger`, or those who ask on and on would hold up the end.
        """
        self.draining = True
        _log.info("told to end: %d requests to answer", self.in_flight)
        await asyncio.sleep(min(linger, grace))
        for site in [] if runner is None else list(runner.sites):
            await site.stop()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.idle(), max(0.0, grace - linger))
        if self.in_flight:
            _log.warning("%d requests were not answered in time", self.in_flight)
        self.closed = True

    async def _close_when_draining(self, _: web.Request, response: web.StreamResponse) -> None:
        if self.draining:
            response.headers["Connection"] = "close"
            response.force_close()
