"""When a checkpoint is due: by time, and seldom enough where saving is slow."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

SAVE_SECONDS = 20.0
SAVING_SHARE = 0.05
"""Of the time that saving may take; what is large is saved less often."""


class Cadence:
    """The timer of a stage's checkpoints, whatever the stage does. A stage that is told to stop saves once more."""

    def __init__(self) -> None:
        self._next = time.monotonic() + SAVE_SECONDS

    def due(self) -> bool:
        """Whether the last checkpoint is old enough."""
        return time.monotonic() >= self._next

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Around the saving, whose cost counts."""
        start = time.monotonic()
        yield
        now = time.monotonic()
        self._next = now + max(SAVE_SECONDS, (now - start) / SAVING_SHARE)
