"""A command as a fork of the test's process: its main function, without the seconds in which torch is imported.

Where the point is that a command starts at all, a test starts it with Python.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NoReturn

from tests.kit.waiting import until


class Fork:
    """A process that runs a main function.

    Args:
        main: gives the exit code.
        output: file descriptor that gets its standard output and standard error.
        environment: what is in its environment besides this process's.
    """

    def __init__(self, main: Callable[[], int], output: int, environment: Mapping[str, str]) -> None:
        self._process = multiprocessing.get_context("fork").Process(target=_run, args=(main, output, environment))
        self._process.start()

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float) -> int:
        """The exit code once it ended; TimeoutError if it does not."""
        until(lambda: self.poll() is not None, "the fork ends", seconds)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal, if it runs."""
        assert self._process.pid is not None
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()


def _run(main: Callable[[], int], output: int, environment: Mapping[str, str]) -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(output), "w", buffering=1) for _ in range(2))
    os.environ.update(environment)
    sys.exit(main())
