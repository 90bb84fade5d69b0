"""Progress of long work: a bar on a terminal, elsewhere one log line every ten seconds."""

import logging
import sys
import time
from collections.abc import Callable
from typing import Self

from tqdm import tqdm

INTERVAL = 10.0
_log = logging.getLogger(__name__)


class ProgressBar:
    """Counts units of work. Call `update`; use it in a `with` block or call `close`.

    Args:
        total: units that there will be.
        description: what is being done.
        unit: what is counted, in the plural, e.g. `conversations`.
        initial: units that an earlier attempt did already.
        terminal: draw a bar; by default, if standard error is a terminal.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        total: int,
        description: str,
        unit: str = "steps",
        *,
        initial: int = 0,
        terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.description, self.unit, self.count = total, description, unit, initial
        self._clock, self._initial, self._start = clock, initial, clock()
        self._line_at, self._line_count = self._start, -1
        self._figures: dict[str, float] = {}
        self._bar: tqdm | None = None
        if sys.stderr.isatty() if terminal is None else terminal:
            self._bar = tqdm(total=total, initial=initial, desc=description, unit=f" {unit}", dynamic_ncols=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, count: int = 1, **figures: float) -> None:
        """`count` more units are done; `figures` are shown beside them, e.g. `loss=0.31`."""
        self.count += count
        self._figures.update(figures)
        if self._bar is not None:
            if figures:
                self._bar.set_postfix_str(self._postfix(), refresh=False)
            self._bar.update(count)
        elif self._clock() - self._line_at >= INTERVAL:
            self._write_line()

    def close(self) -> None:
        """Ends the bar, or logs the last line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif self._line_count != self.count:
            self._write_line()

    def _postfix(self) -> str:
        return ", ".join(f"{name}={value:.4g}" for name, value in self._figures.items())

    def _write_line(self) -> None:
        now = self._clock()
        self._line_at, self._line_count = now, self.count
        seconds = now - self._start
        rate = (self.count - self._initial) / seconds if seconds > 0 else 0.0
        line = f"{self.description}: {self.count}/{self.total} {self.unit}, {rate:.3g}/s"
        if self.count < self.total and rate > 0:
            line += f", {_duration((self.total - self.count) / rate)} left"
        _log.info("%s", ", ".join(filter(None, [line, self._postfix()])))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
