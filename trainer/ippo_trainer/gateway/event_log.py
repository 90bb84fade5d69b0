"""Where events go: the journal, asked from the event loop, with its refusals in HTTP's words."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from ippo_trainer.contract.errors import BadDataError, TryAgainError
from ippo_trainer.http.errors import RequestError
from ippo_trainer.live.events import Event
from ippo_trainer.live.journal import EventConflictError

_SECONDS = 10.0
"""That the disk gets."""


class Journal(Protocol):
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

    def __init__(self, journal: Journal, seconds: float = _SECONDS) -> None:
        self._journal, self._seconds = journal, seconds

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
                for written in [self._journal.append(event, fingerprint) for event in events]:
                    await asyncio.wrap_future(written)
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
