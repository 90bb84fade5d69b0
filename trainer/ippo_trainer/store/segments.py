"""Segments of a log: JSON lines, compressed, put into the store once under a name that was chosen before.

A put replaces nothing, so one that has to be tried again cannot come twice, whatever became of its answer.
"""

import gzip
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from ippo_trainer.contract.errors import StageError
from ippo_trainer.store.base import ObjectExistsError, Store

ENDING = ".jsonl.gz"
_log = logging.getLogger(__name__)


def segment_name(writer: str, count: int, time: datetime | None = None) -> str:
    """What a segment is called.

    Args:
        writer: hex digits of whoever writes; no two may have the same.
        count: of the writer's segments so far, this one too.
        time: when it began; now if left out.
    """
    time = (time or datetime.now(UTC)).astimezone(UTC)
    return f"{time:%Y%m%dT%H%M%SZ}-{writer}-{count:06d}{ENDING}"


def segment_key(name: str) -> str:
    """Where the segment of that name is below the folder of its log: in a folder for the day when it began."""
    return f"{name[:4]}-{name[4:6]}-{name[6:8]}/{name}"


def compressed(lines: bytes) -> bytes:
    """The content of a segment; the same lines have the same bytes."""
    return gzip.compress(lines, 6, mtime=0)


class Pauses:
    """Seconds to wait after failures in a row, each twice the one before.

    Args:
        least, most: seconds.
    """

    def __init__(self, least: float, most: float) -> None:
        self._least, self._most, self._pause = least, most, 0.0

    def reset(self) -> None:
        """After a success."""
        self._pause = 0.0

    def next(self) -> float:
        """The pause after one more failure."""
        self._pause = min(self._most, max(self._least, 2 * self._pause))
        return self._pause


class Sender:
    """Puts segments; of failures in a row it logs the first.

    Args:
        store: the folder of segments.
        what: is written, for the log.
        failure: called at each failure.
    """

    def __init__(self, store: Store, what: str, failure: Callable[[], None]) -> None:
        self._store, self._what, self._failure = store, what, failure
        self._failing = False

    def put(self, name: str, body: bytes) -> bool:
        """Whether the segment is in the store now. Never raises."""
        try:
            self._store.put(name, body, if_absent=True)
        except ObjectExistsError:
            pass  # an earlier put got there, and its answer was lost
        except StageError as error:
            self._tell(error)
            return False
        except Exception as error:  # whatever it is, it must not end the log
            self._tell(error)
            return False
        if self._failing:
            _log.info("%s is written again", self._what)
        self._failing = False
        return True

    def _tell(self, error: Exception) -> None:
        self._failure()
        if not self._failing:
            _log.warning("%s cannot be written, it is tried again: %s", self._what, error)
        self._failing = True
