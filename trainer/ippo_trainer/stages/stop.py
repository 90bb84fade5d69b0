"""How a stage is told to stop: by SIGTERM or Ctrl-C.

The signal sets a flag, which stages look at wherever their state is complete: they save a checkpoint and end. A step
that takes longer than `PATIENCE_SECONDS` is interrupted, as Ctrl-C interrupts any Python program; the stage then ends
with the checkpoint that it has. What must not be torn, such as saving and publishing, is deferred.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

from ippo_trainer.contract.errors import StoppedError

PATIENCE_SECONDS = 5.0
_AGAIN_SECONDS = 1.0
_RESUMES = "The same command resumes from the last checkpoint."


class Interrupted(BaseException):
    """Raised by the signal handler in a step that takes too long. No Exception: no simulator's retries catch it."""


class StopFlag:
    """Set by SIGTERM or Ctrl-C: the stage saves a checkpoint when it can and ends."""

    def __init__(self) -> None:
        self.signal = ""
        self._interruptible = False

    def is_set(self) -> bool:
        """Whether the stage was told to stop."""
        return bool(self.signal)

    def check(self) -> None:
        """Raises StoppedError if the stage was told to stop."""
        if self.is_set():
            raise StoppedError(f"stopped by {self.signal}", _RESUMES)

    def handle(self, number: int, _: FrameType | None) -> None:
        """The signal handler. A second Ctrl-C does not wait for the next checkpoint."""
        name = signal.Signals(number).name
        if self.signal == name == "SIGINT":
            raise StoppedError("stopped at once by a second Ctrl-C", _RESUMES)
        self.signal = name
        signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)

    def interrupt(self, _number: int, _: FrameType | None) -> None:
        """The handler of SIGALRM, which comes when the patience with a step is over."""
        if self._interruptible:
            raise Interrupted
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """What runs inside may be interrupted; that becomes a StoppedError."""
        try:
            with self._set(True):
                yield
        except Interrupted:
            raise StoppedError(f"stopped by {self.signal} in the middle of a step", _RESUMES) from None

    def deferred(self) -> AbstractContextManager[None]:
        """What runs inside is not interrupted, however long it takes."""
        return self._set(False)

    @contextmanager
    def _set(self, interruptible: bool) -> Iterator[None]:
        before, self._interruptible = self._interruptible, interruptible
        try:
            yield
        finally:
            self._interruptible = before

    @contextmanager
    def listening(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C set the flag. Only a main thread can have handlers; elsewhere the caller's remain."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {signal.SIGTERM: self.handle, signal.SIGINT: self.handle, signal.SIGALRM: self.interrupt}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        timer = signal.getitimer(signal.ITIMER_REAL)
        try:
            yield
        finally:
            if self.is_set():
                signal.setitimer(signal.ITIMER_REAL, *timer)
            for number, handler in before.items():
                signal.signal(number, handler)
