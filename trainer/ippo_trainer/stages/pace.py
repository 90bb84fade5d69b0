"""When a stage saves a checkpoint: by time, and seldom enough where saving is slow."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

SAVE_SECONDS = 20.0
SAVING_SHARE = 0.05
"""Of the time that saving may take; what is large is saved less often."""


class Pace:
    """Says when a checkpoint is due."""

    def __init__(self) -> None:
        self._due = time.monotonic() + SAVE_SECONDS

    def due(self) -> bool:
        """Whether the last one is old enough."""
        return time.monotonic() >= self._due

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Around the saving, whose cost counts."""
        start = time.monotonic()
        yield
        now = time.monotonic()
        self._due = now + max(SAVE_SECONDS, (now - start) / SAVING_SHARE)
