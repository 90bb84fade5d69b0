"""Something that goes on beside a test."""

import threading
import traceback
from typing import Self


class Background:
    """Looks again and again, in a thread. Use as a context manager.

    Args:
        interval: seconds between two looks.
    """

    def __init__(self, interval: float) -> None:
        self.errors: list[str] = []
        """Tracebacks of looks that failed."""
        self._interval = interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._over.wait(self._interval):
            try:
                self.look()
            except Exception:
                self.errors.append(traceback.format_exc())

    def look(self) -> None:
        """What it does."""
        raise NotImplementedError
