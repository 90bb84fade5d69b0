"""The clocks: wall time for what people read, the API server's for what it dates, and one that never stops or jumps."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TypeAlias

Wall: TypeAlias = Callable[[], datetime]
Steady: TypeAlias = Callable[[], float]


_LATEST = datetime(3000, 1, 1, tzinfo=UTC)


def moment(text: object) -> datetime:
    """A time of an object. Whoever may write a status can write any; one that no sum can be made with is cut."""
    return min(datetime.fromisoformat(str(text)), _LATEST)


def wall() -> datetime:
    """Now, with a zone."""
    return datetime.now(UTC)


def steady() -> float:
    """Seconds that go on while the process, or the whole machine, is paused; a paused lease holder has to notice."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


_JITTER = timedelta(seconds=2)
"""The API server tells whole seconds, and an answer takes a while."""


class ServerClock:
    """What time it is by the API server's clock: the only one that its objects' times can be compared with.

    Our own may be hours off, be set meanwhile, or differ from that of the operator before.

    Args:
        steady: measures the time since the last answer.
        own: the time as long as no answer has told any.
    """

    def __init__(self, steady: Steady = steady, own: Wall = wall) -> None:
        self._steady = steady
        self._own = own
        self._last: tuple[datetime, float] | None = None

    def heard(self, date: str | None) -> None:
        """Takes note of an answer's Date header."""
        try:
            server_time = parsedate_to_datetime(date or "")
        except ValueError:
            return
        server_time = server_time if server_time.tzinfo is not None else server_time.replace(tzinfo=UTC)
        if self._last is None or server_time > self() or self() - server_time > _JITTER:
            self._last = server_time, self._steady()

    def __call__(self) -> datetime:
        """Now, with a zone."""
        if self._last is None:
            return self._own()
        server_time, at = self._last
        return server_time + timedelta(seconds=self._steady() - at)
