"""The operator's client for a command that does one thing after the other: an event loop that runs while it waits."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

from ippo_operator.cluster.access.kubeconfig import Flags, load
from ippo_operator.cluster.client import Client, RetryPolicy
from ippo_operator.cluster.connection import KubernetesTransport
from ippo_operator.cluster.transport import Request

AGENT = "ippo"
IDLE = 300.0
"""Seconds without a byte after which a stream counts as lost."""
_PATIENCE = RetryPolicy(attempts=3, first_delay=1.0, longest_delay=5.0, unanswered=False)


class Calls:
    """Requests as one user. Use as a context manager, in a thread without an event loop.

    Args:
        flags: of the command line.
        sleep: waits so many seconds.
        patience: with a server that does not answer.

    Raises:
        KubeconfigError: there is no login.
    """

    def __init__(
        self,
        flags: Flags | None = None,
        sleep: Callable[[float], None] = time.sleep,
        patience: RetryPolicy = _PATIENCE,
    ) -> None:
        self.login = load(flags)
        self._loop = asyncio.Runner()
        self._transport = KubernetesTransport(self.login, lambda: load(flags), AGENT)

        async def pause(seconds: float) -> None:
            await asyncio.to_thread(sleep, seconds)

        self._client = Client(self._transport, retries=patience, sleep=pause)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run(self._transport.__aexit__())
        self._loop.close()

    def request(self, request: Request) -> dict[str, Any]:
        """The JSON of a successful answer.

        Raises:
            ApiError: the server refused, or could not be reached.
            KubeconfigError: the user's credentials cannot be had.
        """
        answer: dict[str, Any] = self._loop.run(self._client.send(request))
        return answer

    def lines(self, request: Request) -> Iterator[str]:
        """The lines of a text stream as they come, without their ends; ends with the stream.

        Raises:
            ApiError: as `request`; UnavailableError also when the stream breaks.
        """
        stream = self._transport.lines(request, IDLE)

        async def following() -> str | None:
            return await anext(stream, None)

        async def close() -> None:
            await stream.aclose()

        try:
            while (line := self._loop.run(following())) is not None:
                yield line
        finally:
            self._loop.run(close())
