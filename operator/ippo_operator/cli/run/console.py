"""What `ippo run` shows: one line per event, and below it how far the running stage is."""

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from ippo_operator.api.status import RunStatus
from ippo_operator.cli import drawing
from ippo_operator.cli.run.waiting import live_progress
from ippo_operator.local.watch import read_progress
from ippo_operator.plan.figures import span_in_words
from ippo_operator.plan.types import Event, ObservedLive

LOG_INTERVAL = 10.0


class Console:
    """Draws on a terminal; elsewhere it writes plain lines, progress at most every ten seconds.

    Args:
        out: where to write; by default, standard error.
        terminal: draw a bar; by default, if `out` is a terminal.
        clock: seconds that only grow.
    """

    def __init__(
        self, out: TextIO | None = None, terminal: bool | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._out = sys.stderr if out is None else out
        self._terminal = self._out.isatty() if terminal is None else terminal
        self._clock = clock
        self._job: Path | None = None
        self._job_start = self._line_time = clock()
        self._last_line = ""
        self.warned = False

    def line(self, text: str) -> None:
        """A line that stays."""
        stamp = time.strftime("%H:%M:%S")
        clear = "\r\x1b[K" if self._terminal else ""
        self._out.write(f"{clear}{stamp} {text}\n")
        self._out.flush()

    def event(self, event: Event) -> None:
        """Something happened."""
        self.warned = self.warned or event.type == "Warning"
        mark = "! " if event.type == "Warning" else ""
        self.line(f"{mark}{event.reason}: {event.message}" if mark else event.message)

    def listening(self, url: str) -> None:
        """The gateway answers."""
        self.line(f"the gateway answers at {url}")

    def stopping(self) -> None:
        """The runner waits for a checkpoint."""
        self.line("stopping: the running stage saves a checkpoint (Ctrl-C again kills it)")

    def tick(self, status: RunStatus, job: Path | None, live: ObservedLive | None = None) -> None:
        """Time passes: redraw the bar, or say a line if it is time and there is something new."""
        now = self._clock()
        if job != self._job:
            self._job, self._job_start, self._line_time = job, now, now
        progress, customers = (None, live_progress(status, live)) if job is None else (read_progress(job), None)
        if customers is not None:
            self._show(
                _bar_of(customers.what, customers.share, customers.count), f"{customers.what}: {customers.count}"
            )
        elif progress is not None:
            text = f"{progress.what}: {drawing.count(progress)}"
            where = f"{_where(status)}: {progress.share:4.0%} {drawing.bar(progress.share)}"
            self._show(f"{where} {span_in_words(now - self._job_start)}, {text}", text)
        elif job is not None:
            self._show(f"{_where(status)}: {span_in_words(now - self._job_start)}")

    def _show(self, drawn: str, said: str = "") -> None:
        """On a terminal what is drawn; elsewhere what is said, if it is time and new."""
        if self._terminal:
            width = shutil.get_terminal_size().columns
            self._out.write("\r\x1b[K" + drawn[: max(1, width - 1)])
            self._out.flush()
        elif said and self._clock() - self._line_time >= LOG_INTERVAL and said != self._last_line:
            self._line_time, self._last_line = self._clock(), said
            self.line(f"  {said}")

    def close(self) -> None:
        """Removes the bar."""
        if self._terminal:
            self._out.write("\r\x1b[K")
            self._out.flush()


def _where(status: RunStatus) -> str:
    return f"iteration {status.iteration} {status.stage}"


def _bar_of(what: str, share: float | None, count: str) -> str:
    return f"{what}: {count}" if share is None else f"{what}: {share:4.0%} {drawing.bar(share)} {count}"
