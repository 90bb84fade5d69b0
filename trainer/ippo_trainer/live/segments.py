"""From the journal into the store: each sealed file becomes one segment, and goes once that is there."""

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from ippo_trainer.contract.errors import StageError
from ippo_trainer.live.journal import SUFFIX, Journal
from ippo_trainer.live.journal_file import events_in
from ippo_trainer.store.base import Store
from ippo_trainer.store.segments import Pauses, Sender, compressed, segment_key

LEAST_PAUSE, MOST_PAUSE = 0.5, 30.0
"""Seconds after a failed put; each is twice the one before, up to the most."""
_log = logging.getLogger(__name__)


@dataclass
class UploadFigures:
    """What an uploader did, for metrics."""

    segments: int = 0
    """In the store."""
    failures: int = 0
    """Of puts, and of files that could not be read."""


class Uploader:
    """Puts a journal's sealed files in the background, the oldest first, until the journal is closed and has none left.

    A crash at any moment is harmless: a file that is still there is put again under its own name, which replaces
    nothing.

    Args:
        journal: whose files.
        store: the folder `layout.LIVE` of a run.
        least_pause, most_pause: seconds between tries.
    """

    def __init__(
        self, journal: Journal, store: Store, least_pause: float = LEAST_PAUSE, most_pause: float = MOST_PAUSE
    ) -> None:
        self.figures = UploadFigures()
        self._journal, self._pauses = journal, Pauses(least_pause, most_pause)
        self._least = least_pause
        self._sender = Sender(store, "the log of live conversations", self._count_failure)
        self._hurry = threading.Event()
        self._until = 0.0
        """When it gives up, by `time.monotonic`, once it is to end."""
        self._thread = threading.Thread(target=self._work, name="uploader", daemon=True)
        self._thread.start()

    def close(self, seconds: float) -> bool:
        """Closes the journal and puts what it holds, for so many seconds at most. Whether all is in the store: what is
        not stays on the disk, for the next one that has this directory."""
        self._until = time.monotonic() + seconds
        self._hurry.set()
        self._journal.close()
        self._thread.join(max(0.0, self._until - time.monotonic()))
        rest = self._journal.figures().waiting_bytes
        if rest:
            _log.error("%d bytes of events are not in the store; they stay in %s", rest, self._journal.directory)
        return not rest

    def finish(self) -> None:
        """Closes the journal and puts what it holds, however long that takes."""
        self._journal.close()
        self._thread.join()

    def _work(self) -> None:
        while (path := self._journal.sealed()) is not None:
            if self._put(path):
                self._pauses.reset()
                self.figures.segments += 1
            elif not self._pause():
                return

    def _put(self, path: Path) -> bool:
        try:
            lines = b"".join(event + b"\n" for event in events_in(path))
            if lines and not self._sender.put(segment_key(path.name.removesuffix(SUFFIX)), compressed(lines)):
                return False
            self._journal.remove(path)
        except FileNotFoundError:
            _log.error("%s is gone, by no gateway's doing", path)
            self._journal.remove(path)
        except (OSError, StageError) as error:
            _log.error("cannot read or remove %s, it is tried again: %s", path, error)
            self._journal.postpone(path)
            self._count_failure()
            return False
        return True

    def _pause(self) -> bool:
        """Waits before the next try; False if there is no time for one."""
        if not self._hurry.wait(self._pauses.next()):
            return True
        rest = self._until - time.monotonic()
        time.sleep(max(0.0, min(self._least, rest)))
        return rest > 0

    def _count_failure(self) -> None:
        self.figures.failures += 1
