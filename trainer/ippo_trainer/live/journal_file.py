"""A file of a journal: records, one a line, of which a crash can cut off none that was synced.

A record is the CRC-32 of an event in hex, a blank, and the event as JSON, which has no line breaks. Synced records are
never written over, so what has no line break or another CRC was never answered.
"""

import logging
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from ippo_trainer.store.disk import sync_directory

_CRC = 9
"""Characters before the event."""
_log = logging.getLogger(__name__)


def record(event: bytes) -> bytes:
    """The record of an event, which is JSON without line breaks."""
    return b"%08x %s\n" % (zlib.crc32(event), event)


def events_in(path: Path) -> Iterator[bytes]:
    """The events of a file as JSON, in order; what is damaged is left out and told. Raises OSError."""
    damaged = 0
    with path.open("rb") as file:
        for line in file:
            event = line[_CRC:-1]
            if line == record(event):
                yield event
            elif line.endswith(b"\n"):  # else it is the end that a crash cut off
                damaged += 1
    if damaged:
        _log.error("%d records of %s are damaged and left out", damaged, path)


class JournalFile:
    """A file that is written. Not for several threads.

    Args:
        path: of a file that is not there yet.

    Raises:
        OSError: also from `append`. Then it is to be closed, and nothing of that call was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        """Bytes that are synced."""
        self._end = 0
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            sync_directory(path.parent)
        except OSError:
            self.close()
            raise

    def append(self, records: bytes) -> None:
        """Writes and syncs records: all of them, or it raises."""
        rest = memoryview(records)
        while rest:
            written = os.write(self._descriptor, rest)
            self._end += written
            rest = rest[written:]
        os.fdatasync(self._descriptor)
        self.size = self._end

    def close(self) -> None:
        """Cuts off what was not synced. A file without records goes. Never raises."""
        try:
            if self.size == 0:
                self.path.unlink(missing_ok=True)
            elif self._end > self.size:
                os.ftruncate(self._descriptor, self.size)
        except OSError as error:  # then readers may see events that nobody was answered: that is harmless
            _log.warning("cannot cut %s to its synced size: %s", self.path, error.strerror)
        os.close(self._descriptor)
