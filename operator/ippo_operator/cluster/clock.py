"""The two clocks: wall time for what people read, and one that never stops or jumps for deadlines."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

Wall: TypeAlias = Callable[[], datetime]
Steady: TypeAlias = Callable[[], float]


def wall() -> datetime:
    """Now, with a zone."""
    return datetime.now(UTC)


def steady() -> float:
    """Seconds that go on while the process, or the whole machine, is paused; a paused lease holder has to notice."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
