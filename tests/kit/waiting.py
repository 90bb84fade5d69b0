"""Waits for a condition, never for a time."""

import threading
import time
from collections.abc import Callable


def wait_until(holds: Callable[[], bool], timeout: float = 60.0) -> None:
    """Returns as soon as the condition holds; fails after `timeout` seconds."""
    deadline, pause = time.monotonic() + timeout, threading.Event()
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        pause.wait(0.01)
