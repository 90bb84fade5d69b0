"""The log of a server: what it suggested to which message, in segments of JSON lines that are never changed.

A record waits in bounded memory until a thread puts it into the store. A store that does not answer costs records,
never a request: what finds no room is dropped and counted.
"""

import json
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ippo_trainer.serve.metrics import LogMetrics
from ippo_trainer.store.base import Store
from ippo_trainer.store.segments import Pauses, Sender, compressed, segment_key, segment_name

VERSION = 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SegmentLimits:
    """When a segment is written, and what may wait. Bytes are those of JSON before it is compressed."""

    seconds: float = 10.0
    """After its first record; what a server that is killed loses at most, while the store answers."""
    segment_bytes: int = 4 << 20
    waiting_bytes: int = 64 << 20
    """Of all records that are not in the store; more are dropped."""
    least_pause: float = 1.0
    most_pause: float = 60.0
    """Seconds after a failed put; each is twice the one before, up to the most."""


@dataclass(frozen=True)
class _Segment:
    key: str
    body: bytes
    records: int
    size: int


class SuggestionLog:
    """Writes records in the background.

    Args:
        store: the folder of segments.
        metrics: counts what is written, dropped and waiting.
        limits: of segments and memory.
    """

    def __init__(self, store: Store, metrics: LogMetrics, limits: SegmentLimits = SegmentLimits()) -> None:
        self._metrics, self._limits = metrics, limits
        self._sender = Sender(store, "the log of suggestions", metrics.failures.inc)
        self._writer = secrets.token_hex(6)
        self._count = 0
        self._lines: deque[bytes] = deque()
        self._waiting = 0
        """Bytes of the lines and of the segment under way."""
        self._since = 0.0
        """When the first of the lines came, by `time.monotonic`."""
        self._changed = threading.Condition()
        self._until: float | None = None
        """When writing ends, by `time.monotonic`, once it is to end."""
        self._thread = threading.Thread(target=self._work, name="suggestion-log", daemon=True)
        self._thread.start()

    def add(self, record: dict[str, Any]) -> None:
        """Takes a record, or drops it where there is no room. Never blocks on the store and never raises."""
        try:
            line = json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        except (ValueError, TypeError, RecursionError) as error:
            self._metrics.dropped.inc()
            _log.warning("a suggestion cannot be logged: %s", error)
            return
        with self._changed:
            if self._until is not None or self._waiting + len(line) > self._limits.waiting_bytes:
                self._metrics.dropped.inc()
                return
            if not self._lines:
                self._since = time.monotonic()
            self._lines.append(line)
            self._wait_for(len(line))
            self._changed.notify()

    def close(self, seconds: float) -> None:
        """Writes what there is, for so many seconds at most; what is left is dropped, counted and told."""
        with self._changed:
            self._until = time.monotonic() + seconds
            self._changed.notify()
        self._thread.join(seconds)
        with self._changed:
            if self._waiting:
                _log.error("%d bytes of the log of suggestions could not be written in time", self._waiting)

    def _wait_for(self, size: int) -> None:
        self._waiting += size
        self._metrics.waiting.set(self._waiting)

    def _work(self) -> None:
        pauses = Pauses(self._limits.least_pause, self._limits.most_pause)
        segment: _Segment | None = None
        while True:
            segment = segment or self._next()
            if segment is None:
                return
            if self._put(segment):
                segment = None
                pauses.reset()
            elif not self._pause(pauses.next()):
                return

    def _pause(self, seconds: float) -> bool:
        """Waits before the next try; False if there is no time for one."""
        with self._changed:
            self._changed.wait_for(lambda: self._until is not None, seconds)
            if self._until is None:
                return True
            rest = self._until - time.monotonic()
        time.sleep(max(0.0, min(self._limits.least_pause, rest)))
        return rest > 0

    def _next(self) -> _Segment | None:
        """The next segment once it is due; None at the end."""
        with self._changed:
            while not self._due():
                if self._until is not None:
                    return None
                rest = self._since + self._limits.seconds - time.monotonic() if self._lines else None
                self._changed.wait(None if rest is None else max(0.0, rest))
            lines, size = [], 0
            while self._lines and size < self._limits.segment_bytes:
                lines.append(self._lines.popleft())
                size += len(lines[-1])
            self._since = time.monotonic()
        return self._sealed(lines, size)

    def _due(self) -> bool:
        if not self._lines:
            return False
        late = time.monotonic() - self._since >= self._limits.seconds
        return late or self._until is not None or self._waiting >= self._limits.segment_bytes

    def _sealed(self, lines: Sequence[bytes], size: int) -> _Segment:
        self._count += 1
        key = segment_key(segment_name(self._writer, self._count))
        return _Segment(key, compressed(b"".join(lines)), len(lines), size)

    def _put(self, segment: _Segment) -> bool:
        """Whether the segment is in the store."""
        if not self._sender.put(segment.key, segment.body):
            return False
        self._metrics.written.inc(segment.records)
        self._metrics.segments.inc()
        with self._changed:
            self._wait_for(-segment.size)
        return True
