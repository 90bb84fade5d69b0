"""Two queues, so that runs whose objects are large wait for each other and for nobody else, and nobody for them.

A pass over a run of a megabyte takes many times that. One such pass at a time is all that a small process has room
for, and whoever makes hundreds of such runs must not hold up the others.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ippo_operator.process.queue import KeyedQueue

K = TypeVar("K", bound=Hashable)


@dataclass
class Lanes(Generic[K]):
    """Each key is in one of the queues."""

    many: KeyedQueue[K] = field(default_factory=KeyedQueue)
    """Of keys that are worked on side by side."""
    single: KeyedQueue[K] = field(default_factory=KeyedQueue)
    """Of keys that are worked on one by one."""
    _large: set[K] = field(default_factory=set)

    def _of(self, key: K) -> KeyedQueue[K]:
        return self.single if key in self._large else self.many

    def add(self, key: K, after: float = 0.0) -> None:
        """See KeyedQueue."""
        self._of(key).add(key, after)

    def retry(self, key: K, at_least: float = 0.0) -> float:
        """See KeyedQueue."""
        return self._of(key).retry(key, at_least)

    def succeeded(self, key: K) -> None:
        """See KeyedQueue."""
        self._of(key).succeeded(key)

    def drop(self, key: K) -> None:
        """See KeyedQueue."""
        self._of(key).drop(key)
        self._large.discard(key)

    def busy(self, key: K) -> bool:
        """See KeyedQueue."""
        return self._of(key).busy(key)

    def clock(self) -> float:
        """See KeyedQueue."""
        return self.many.clock()

    def is_large(self, key: K) -> None:
        """Has the key worked on one by one from now on. To be called by who works on it."""
        self.many.drop(key)
        self._large.add(key)
        self.single.add(key)

    def look_again(self) -> None:
        """What was large need not be so for ever: keys that nobody works on go back."""
        for key in [key for key in self._large if not self.single.busy(key)]:
            self.drop(key)
            self.many.add(key)

    @property
    def queues(self) -> tuple[KeyedQueue[K], KeyedQueue[K]]:
        """Both."""
        return self.many, self.single

    @property
    def depth(self) -> int:
        """Keys that are due now and wait."""
        return sum(queue.depth for queue in self.queues)

    @property
    def working(self) -> int:
        """Keys that are worked on."""
        return sum(queue.working for queue in self.queues)

    @property
    def oldest_work(self) -> float:
        """For how many seconds the longest pass has been going on."""
        return max(queue.oldest_work for queue in self.queues)
