"""Waits for a condition, never for a time."""

import threading
import time
from collections.abc import Callable


def until(holds: Callable[[], bool], what: str, seconds: float = 30, every: float = 0.05) -> None:
    """Returns once it holds; raises TimeoutError otherwise."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s: {what}")
        pause.wait(every)
