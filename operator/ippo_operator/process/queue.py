"""A queue of keys, each at most once: what happens to a key while it waits is one pass, not many.

As client-go's work queue: a key that is added while it is worked on is worked on once more afterwards, never twice at
the same time. Repetitions back off exponentially with jitter, per key.
"""

import asyncio
import heapq
import itertools
import math
import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
_SLACK = 64


@dataclass(frozen=True)
class Backoff:
    """Waits before repetitions, in seconds."""

    first: float = 0.2
    longest: float = 60.0

    def wait(self, failures: int) -> float:
        """Before the next try after so many in a row; between half of the full wait and all of it."""
        full = min(self.longest, self.first * 2.0 ** min(failures - 1, 30))
        return full * random.uniform(0.5, 1.0)  # noqa: S311


@dataclass
class KeyedQueue(Generic[K]):
    """Keys that are due now or later.

    Args:
        backoff: of repetitions.
        clock: seconds, as the event loop counts them.
    """

    backoff: Backoff = field(default_factory=Backoff)
    clock: Callable[[], float] = lambda: asyncio.get_running_loop().time()
    _due: dict[K, float] = field(default_factory=dict)
    _heap: list[tuple[float, int, K]] = field(default_factory=list)
    _order: "itertools.count[int]" = field(default_factory=itertools.count)
    _failures: dict[K, int] = field(default_factory=dict)
    _working: dict[K, float] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, key: K, after: float = 0.0) -> None:
        """Makes the key due in so many seconds, unless it is due earlier anyway.

        Less than 0 is ahead of keys that are due already.
        """
        due = self.clock() + after
        if due >= self._due.get(key, float("inf")):
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._order), key))
        self._forget_outdated()
        self._changed.set()

    def _forget_outdated(self) -> None:
        """Keys are made due in a week, taken today and made due in a week again: those entries would pile up."""
        if len(self._heap) > 2 * len(self._due) + _SLACK:
            self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)

    def retry(self, key: K, at_least: float = 0.0) -> float:
        """Makes the key due after its back-off, or so many seconds if that is longer; returns the wait."""
        self._failures[key] = self._failures.get(key, 0) + 1
        wait = max(at_least, self.backoff.wait(self._failures[key]))
        self.add(key, wait)
        return wait

    def succeeded(self, key: K) -> None:
        """The key's next failure is its first one."""
        self._failures.pop(key, None)

    def drop(self, key: K) -> None:
        """Forgets a key that does not exist any more."""
        self._due.pop(key, None)
        self._failures.pop(key, None)

    async def take(self) -> K:
        """Waits for a key that is due and that nobody works on. Call `done` with it afterwards."""
        while True:
            self._changed.clear()
            key, wait = self._next()
            if key is not None:
                self._working[key] = self.clock()
                return key
            try:
                # Not wait_for: in Python 3.11 it swallows a cancellation that comes together with the event.
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _next(self) -> tuple[K | None, float | None]:
        """A key to work on, or how long there is none."""
        now, held = self.clock(), []
        try:
            while self._heap:
                due, _, key = self._heap[0]
                if self._due.get(key) != due:  # added again for an earlier time, taken, or dropped
                    heapq.heappop(self._heap)
                elif due > now:
                    return None, due - now
                elif key in self._working:
                    held.append(heapq.heappop(self._heap))
                else:
                    heapq.heappop(self._heap)
                    del self._due[key]
                    return key, None
            return None, None
        finally:
            for entry in held:
                heapq.heappush(self._heap, entry)

    def waits(self, key: K) -> None:
        """Whoever works on the key waits for room: that is no work that hangs, until `begins` is called."""
        self._working[key] = math.inf

    def begins(self, key: K) -> None:
        """Whoever works on the key has room for it now."""
        self._working[key] = self.clock()

    def done(self, key: K) -> None:
        """Nobody works on the key any more."""
        self._working.pop(key, None)
        self._changed.set()

    @property
    def depth(self) -> int:
        """Keys that are due now and wait."""
        now = self.clock()
        return sum(due <= now for due in self._due.values())

    def busy(self, key: K) -> bool:
        """Whether somebody works on the key."""
        return key in self._working

    @property
    def working(self) -> int:
        """Keys that are worked on."""
        return len(self._working)

    @property
    def oldest_work(self) -> float:
        """For how many seconds the longest pass has been going on."""
        return max((self.clock() - since for since in self._working.values() if since < math.inf), default=0.0)
