"""Progress of long work: a bar on a terminal, elsewhere one log line every ten seconds."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Generic, Self, TypeVar

from tqdm import tqdm

T = TypeVar("T")
INTERVAL = 10.0
_log = logging.getLogger(__name__)


class Progress(Generic[T]):
    """Counts units of work. Iterate over it, or call `update`; use it in a `with` block or call `close`.

    Args:
        items: what to iterate over, or how many units there will be.
        description: what is being done.
        unit: what is counted, in the plural, e.g. `conversations`.
        initial: units that an earlier attempt did already.
        terminal: draw a bar; by default, if standard error is a terminal.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        items: Iterable[T] | int,
        description: str,
        unit: str = "steps",
        *,
        initial: int = 0,
        terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.description, self.unit, self.count = description, unit, initial
        self._items: Iterable[T] | None = None if isinstance(items, int) else items
        self.total = items if isinstance(items, int) else len(items) if isinstance(items, Sized) else None
        self._clock, self._initial, self._start = clock, initial, clock()
        self._said, self._said_count = self._start, -1
        self._figures: dict[str, float] = {}
        self._bar: tqdm | None = None
        if sys.stderr.isatty() if terminal is None else terminal:
            self._bar = tqdm(total=self.total, initial=initial, desc=description, unit=f" {unit}", dynamic_ncols=True)

    def __iter__(self) -> Iterator[T]:
        if self._items is None:
            raise TypeError("this progress only counts: it was given a number, not items")
        with self:
            for item in self._items:
                yield item
                self.update()

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
        elif self._clock() - self._said >= INTERVAL:
            self._say()

    def close(self) -> None:
        """Ends the bar, or logs the last line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif self._said_count != self.count:
            self._say()

    def _postfix(self) -> str:
        return ", ".join(f"{name}={value:.4g}" for name, value in self._figures.items())

    def _say(self) -> None:
        now = self._clock()
        self._said, self._said_count = now, self.count
        done, seconds = self.count - self._initial, now - self._start
        rate = done / seconds if seconds > 0 else 0.0
        line = f"{self.description}: {self.count}"
        if self.total is not None:
            line += f"/{self.total}"
        line += f" {self.unit}, {rate:.3g}/s"
        if self.total is not None and self.count < self.total and rate > 0:
            line += f", {_duration((self.total - self.count) / rate)} left"
        _log.info("%s", ", ".join(filter(None, [line, self._postfix()])))


def progress(items: Iterable[T] | int, description: str, unit: str = "steps", *, initial: int = 0) -> Progress[T]:
    """The progress of a stage on this process's standard error."""
    return Progress(items, description, unit, initial=initial)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
