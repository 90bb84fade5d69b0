"""A streamed answer on its way to a client, who may be slow, or gone."""

import asyncio
from collections.abc import Mapping

from aiohttp import web

_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class ClientGoneError(ConnectionError):
    """The client went away, or takes nothing."""


class Sending:
    """Sends server-sent events. Its headers wait for the first one: until then a failure has its own status.

    Args:
        request: of the client.
        seconds: in which the client has to take each.
    """

    def __init__(self, request: web.Request, seconds: float) -> None:
        self._request, self._seconds = request, seconds
        self._response: web.StreamResponse | None = None
        self.headers: Mapping[str, str] = {}
        """More of them."""

    @property
    def begun(self) -> bool:
        """Whether the client has got anything."""
        return self._response is not None

    async def send(self, event: bytes) -> None:
        """Sends an event. Raises ClientGoneError."""
        try:
            async with asyncio.timeout(self._seconds):
                if self._response is None:
                    self._response = web.StreamResponse(headers={**_HEADERS, **self.headers})
                    await self._response.prepare(self._request)
                await self._response.write(event)
        except (ConnectionError, TimeoutError) as error:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ClientGoneError("the client takes nothing") from error

    async def end(self) -> web.StreamResponse:
        """The response, complete. Raises ClientGoneError."""
        assert self._response is not None
        try:
            async with asyncio.timeout(self._seconds):
                await self._response.write_eof()
        except (ConnectionError, TimeoutError) as error:
            raise ClientGoneError("the client takes nothing") from error
        return self._response
