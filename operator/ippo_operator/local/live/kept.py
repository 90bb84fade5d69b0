"""A process that is started again whenever it ends, later each time that it ended soon."""

import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from ippo_trainer.contract.errors import FINAL

from ippo_operator.local.files import last_line
from ippo_operator.local.processes import exit_code, wait_for_any

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_WELL_SECONDS = 60.0
"""A process that ran for so long had started well, however it ended."""


class KeptProcess(ABC):
    """Keeps one process at work.

    Args:
        log: what it prints.
        clock: seconds that only grow.
    """

    def __init__(self, log: Path, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._process: BaseProcess | None = None
        self._started = 0.0
        self._due = 0.0
        self.failures = 0
        """Ends in a row, each soon after a start."""
        self.code = 0
        """Of the last end."""

    @abstractmethod
    def _start(self) -> BaseProcess: ...

    def _keep(self) -> bool:
        """Takes note of an end, and starts it when that is due; returns whether it was started now."""
        now = self._clock()
        if self._process is not None and not self._process.is_alive():
            self._reap(now)
        if self._process is not None or now < self._due:
            return False
        self._process, self._started = self._start(), now
        return True

    def _reap(self, now: float) -> None:
        if self._process is None:
            return
        self._process.join()
        self.code = exit_code(self._process)
        self.failures = 1 if now - self._started >= _WELL_SECONDS else self.failures + 1
        self._due = now + min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self.failures - 1, 16))
        self._process = None

    @property
    def process(self) -> BaseProcess | None:
        """It, while it runs."""
        return self._process

    @property
    def hopeless(self) -> bool:
        """It ended and said that it would do so again."""
        return self._process is None and self.failures > 0 and self.code in FINAL

    @property
    def trouble(self) -> str:
        """How it ended last, if it did soon after its start."""
        return self.last_words() if self.failures else ""

    def last_words(self) -> str:
        """How it ended, and the last line that it printed."""
        said = last_line(self._log)
        return f"it ended with {self.code}{f': {said}' if said else ''}, see {self._log}"

    def tell_to_end(self) -> None:
        """It answers what it has, brings its work to an end and ends."""
        self._signal(signal.SIGTERM)

    def wait(self, until: float, hurry: Callable[[], bool] = lambda: False) -> None:
        """Waits for its end; kills it at the time `until` of the clock, or as soon as `hurry` says so."""
        while self._process is not None and self._process.is_alive():
            seconds = until - self._clock()
            if seconds <= 0 or hurry():
                self._signal(signal.SIGKILL)
            wait_for_any([self._process], (), min(0.1, max(0.0, seconds)) or 0.1)
        self._reap(self._clock())

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.pid is not None and self._process.is_alive():
            os.kill(self._process.pid, number)
