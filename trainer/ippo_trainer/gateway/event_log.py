"""Where events go: the journal, asked from the event loop, with its refusals in HTTP's words."""

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Protocol

from ippo_trainer.contract.errors import BadDataError, TryAgainError
from ippo_trainer.http.errors import RequestError
from ippo_trainer.live.events import Event
from ippo_trainer.live.journal import EventConflictError

_SECONDS = 10.0
"""That the disk gets."""


class EventJournal(Protocol):
    """As `live.journal.Journal`, as far as it is needed here."""

    def append(self, event: Event, fingerprint: bytes = b"") -> Future[bool]:
        """Takes an event; its future ends once the event is on the disk."""
        ...


class EventLog:
    """Logs events durably.

    Args:
        journal: where to.
        seconds: that the disk gets.
    """

    def __init__(self, journal: EventJournal, seconds: float = _SECONDS) -> None:
        self._journal, self._seconds = journal, seconds
        self._wakening = _Wakening()

    async def add(self, events: Sequence[Event], fingerprint: bytes = b"") -> None:
        """Returns once all events are on the disk.

        Args:
            events: to log.
            fingerprint: of what a client sent under an idempotency key; empty where it sent none.

        Raises:
            RequestError: 503 if one is not, as far as is known; 409 if the key is another report's; 400 if it cannot
                be written.
        """
        try:
            async with asyncio.timeout(self._seconds):
                futures = [self._journal.append(event, fingerprint) for event in events]
                for written in [self._wakening.of(future) for future in futures]:
                    await written
        except EventConflictError as error:
            message = "this Idempotency-Key came with another request before; give every report a key of its own"
            raise RequestError(409, message, "Idempotency-Key", "idempotency_key_reused") from error
        except TryAgainError as error:
            raise RequestError(503, f"it is not logged: {error.message}", code="log_full") from error
        except BadDataError as error:
            raise RequestError(400, f"it cannot be logged: {error}") from error
        except TimeoutError as error:
            message = "the disk does not answer, so it is not known to be logged"
            raise RequestError(503, message, code="log_full") from error


class _Wakening:
    """Brings the journal's futures into the event loop: one wake-up for all that one sync has ended. asyncio's own
    `wrap_future` wakes the loop for each."""

    def __init__(self) -> None:
        self._ended: deque[tuple[asyncio.Future[bool], Future[bool]]] = deque()
        self._awake = False

    def of(self, future: Future[bool]) -> "asyncio.Future[bool]":
        """A future of the running loop."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        future.add_done_callback(partial(self._end, loop, waiter))
        return waiter

    def _end(self, loop: asyncio.AbstractEventLoop, waiter: "asyncio.Future[bool]", future: Future[bool]) -> None:
        """In the journal's thread."""
        self._ended.append((waiter, future))
        if not self._awake:
            self._awake = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._hand_over)

    def _hand_over(self) -> None:
        self._awake = False  # before they are looked at: what ends from now on wakes the loop again
        while self._ended:
            waiter, future = self._ended.popleft()
            if waiter.done():
                continue
            if (error := future.exception()) is not None:
                waiter.set_exception(error)
            else:
                waiter.set_result(future.result())
