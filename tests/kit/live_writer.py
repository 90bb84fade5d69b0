"""A replica of a gateway without HTTP: holds conversations, journals their events, and notes those that were answered
for. `python -m tests.kit.live_writer DIRECTORY LOCATION NAME` goes on until SIGTERM; exit code 3 if events are left."""

import os
import resource
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from ippo_trainer.contract.errors import TryAgainError
from ippo_trainer.contract.spec import StoreLocation
from ippo_trainer.live.events import Event
from ippo_trainer.live.journal import Journal, JournalFullError, JournalLimits
from ippo_trainer.live.segments import Uploader
from ippo_trainer.store import open_store

from tests.kit.live_events import BEGIN, Chat

THREADS = 8
TURNS = 3
LEFT = 3
"""Exit code."""
DOWN, FULL = "down", "full"
"""Files beside a local store and a journal, while the store does not answer and the disk takes nothing."""


class _Store:
    """A local store that is down while a file says so."""

    def __init__(self, location: StoreLocation) -> None:
        self._store, self._down = open_store(location), Path(f"{location.directory}.{DOWN}")

    def put(self, key: str, source: Path | bytes, *, if_absent: bool = False) -> None:
        if self._down.exists():
            raise TryAgainError("the store does not answer", "Wait.")
        self._store.put(key, source, if_absent=if_absent)


class Replica:
    """Writes with many threads at once.

    Args:
        directory: of the journal, and of the file of what was answered for.
        location: of the store.
        name: of this process, like no other's: its conversations begin with it.
    """

    def __init__(self, directory: Path, location: StoreLocation, name: str) -> None:
        store = _Store(location) if location.directory else open_store(location)
        self._journal = Journal(directory, JournalLimits(seconds=0.2, file_bytes=1 << 17, waiting_bytes=64 << 20))
        self._uploader = Uploader(self._journal, store, 0.05, 0.5)
        self._name, self._full = name, directory / FULL
        self._answered = os.open(directory / "answered", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.over = threading.Event()

    def run(self) -> int:
        """Until it is over; then what is left is put, for a minute at most."""
        threads = [threading.Thread(target=self._hold, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        while not self.over.wait(0.02):
            limit = 0 if self._full.exists() else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        for thread in threads:
            thread.join()
        return 0 if self._uploader.close(60) else LEFT

    def _hold(self, thread: int) -> None:
        number = 0
        while not self.over.is_set():
            number += 1
            chat = Chat(f"{self._name}-{thread}-{number}")
            for turn in range(TURNS):
                text = f"suggestion {turn}"
                suggestion = chat.ask(f"message {turn}", text, BEGIN + turn)
                reaction = chat.react(suggestion, "accepted", BEGIN + turn + 0.5)
                if not (self._log(suggestion) and self._log(reaction)):
                    break
            else:
                self._log(chat.close(BEGIN + TURNS, outcome=number % 2 == 0))

    def _log(self, event: Event) -> bool:
        """As a client that tries again what was refused, until it is answered for or told to end."""
        while not self.over.is_set():
            try:
                self._journal.append(event, b"x").result()
            except JournalFullError:
                self.over.wait(0.01)
                continue
            self._note(event["event_id"])
            return True
        return False

    def _note(self, name: str) -> None:
        """On a disk that may be full: then the note comes later."""
        while True:
            try:
                os.write(self._answered, f"{name}\n".encode())
                return
            except OSError:
                self.over.wait(0.01)
                if self.over.is_set():
                    return


def main() -> int:
    """The command."""
    directory, location, name = sys.argv[1:]
    Path(directory).mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    replica = Replica(Path(directory), StoreLocation.model_validate_json(location), name)

    def end(number: int, frame: FrameType | None) -> None:
        replica.over.set()

    signal.signal(signal.SIGTERM, end)
    return replica.run()


if __name__ == "__main__":
    sys.exit(main())
