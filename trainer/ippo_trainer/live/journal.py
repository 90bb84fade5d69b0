"""A gateway's journal: events on the local disk, synced before anybody is answered, until they are in the store.

Files of records are written one after the other; one that is full or old is sealed and never changed. A file is called
as the segment that is made of it (`live.segments`), so that name is on the disk before anything is put.
"""

import fcntl
import hashlib
import json
import os
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from ippo_trainer.contract.errors import BadDataError, BadSpecError, StageError, TryAgainError
from ippo_trainer.live.events import Event
from ippo_trainer.live.journal_file import JournalFile, record
from ippo_trainer.store.disk import disk_error, disk_errors
from ippo_trainer.store.segments import segment_name

SUFFIX = ".journal"
_BATCH_BYTES = 1 << 20
"""Of what one sync writes, about."""
_ROOM = "Wait until events are in the store again, or give the journal a larger volume."


class JournalFullError(TryAgainError):
    """An event is not logged: there is no room, or the disk fails."""


class EventConflictError(BadDataError):
    """An event has the id of another one that says something else."""


@dataclass(frozen=True)
class JournalLimits:
    """When a file is full, and what may wait. Bytes are those of records."""

    seconds: float = 10.0
    """After its first events a file is sealed: how far readers are behind, while the store answers."""
    file_bytes: int = 4 << 20
    waiting_bytes: int = 1 << 30
    """On the disk and not in the store; beyond that events are refused."""
    queue: int = 4096
    """Events that wait to be written; further ones are refused."""
    ids: int = 100_000
    """Remembered to answer repeats; about 300 bytes each."""


@dataclass(frozen=True)
class JournalFigures:
    """What a journal did and holds, for metrics."""

    written: int = 0
    """Events."""
    refused: int = 0
    """Events that found no room, or a disk that failed."""
    syncs: int = 0
    waiting_bytes: int = 0
    """On the disk and not in the store."""
    waiting_files: int = 0


@dataclass(slots=True)
class _Entry:
    event: Event
    written: Future[bool]
    name: bytes


class Journal:
    """Takes events of any thread; one thread writes them, and one sync serves all that wait.

    A directory belongs to one journal at a time. What an earlier one left there is taken over.

    Args:
        directory: made if need be.
        limits: of files, disk and memory.
        redact: applied to each event before it is written; see `live.redaction`.

    Raises:
        BadSpecError: another process has the directory, or it cannot be used.
        TryAgainError: a full or broken disk.
    """

    def __init__(
        self,
        directory: Path,
        limits: JournalLimits = JournalLimits(),
        redact: Callable[[Event], Event] = lambda event: event,
    ) -> None:
        self.directory, self._limits, self._redact = directory, limits, redact
        with disk_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(directory / "lock")
            self._sizes = {path: path.stat().st_size for path in sorted(directory.glob(f"*{SUFFIX}"))}
        self._sealed = deque(self._sizes)
        self._waiting = sum(self._sizes.values())
        self._writer, self._count = secrets.token_hex(6), 0
        self._file: JournalFile | None = None
        self._opened = 0.0
        """When the file was, by `time.monotonic`."""
        self._queue: deque[_Entry] = deque()
        self._ids: OrderedDict[bytes, tuple[bytes, Future[bool] | None]] = OrderedDict()
        """Fingerprints by short names; with futures while events are not written, for futures are large."""
        self._figures = JournalFigures()
        self._changed = threading.Condition()
        self._closing = self._closed = False
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def append(self, event: Event, fingerprint: bytes = b"") -> Future[bool]:
        """Takes an event. Its future ends once the event is on the disk: True, or False where it had been there.

        Args:
            event: a JSON object; `event_id` is its identity.
            fingerprint: of what a client sent, where the id is the client's own, so that it may come again: the same
                few bytes for the same. Empty: it comes once.

        Returns:
            A future that may raise `JournalFullError`, or `BadDataError` where the event is no JSON or cannot be
            redacted. Then the event is not logged.

        Raises:
            EventConflictError: the id was there with another fingerprint, as far as the journal remembers.
            JournalFullError: too many events wait, or the journal is closed.
        """
        name = hashlib.blake2b(event["event_id"].encode(), digest_size=16).digest() if fingerprint else b""
        with self._changed:
            if name in self._ids:
                return self._repeat(name, fingerprint)
            if self._closing or len(self._queue) >= self._limits.queue:
                self._count_refused(1)
                what = "the journal is closed" if self._closing else f"{len(self._queue)} events wait to be written"
                raise JournalFullError(what, "Send the event again.")
            entry = _Entry(event, _future(), name)
            self._queue.append(entry)
            if name:
                self._ids[name] = (fingerprint, entry.written)
                if len(self._ids) > self._limits.ids:
                    self._ids.popitem(last=False)
            self._changed.notify_all()
        return entry.written

    def room(self) -> bool:
        """Whether events are taken: worth a question before a policy is asked."""
        return not self._closing and self._waiting < self._limits.waiting_bytes

    def figures(self) -> JournalFigures:
        """As of now."""
        with self._changed:
            return replace(self._figures, waiting_bytes=self._waiting, waiting_files=len(self._sizes))

    def sealed(self, seconds: float | None = None) -> Path | None:
        """The oldest sealed file that was not removed. Waits for one, so many seconds at most (None: as long as it
        takes); None where there is none by then, or never will be, since the journal is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._sealed or self._closed, seconds)
            return self._sealed[0] if self._sealed else None

    def postpone(self, path: Path) -> None:
        """Puts a sealed file behind the others: it cannot be read now."""
        with self._changed:
            self._sealed.remove(path)
            self._sealed.append(path)

    def remove(self, path: Path) -> None:
        """Removes a sealed file: its events are in the store. Raises a StageError where the disk refuses."""
        with disk_errors(path):
            path.unlink(missing_ok=True)
        with self._changed:
            self._sealed.remove(path)
            self._waiting -= self._sizes.pop(path)

    def close(self) -> None:
        """Writes what waits, takes nothing more, seals the last file. Sealed files can still be removed."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def release(self) -> None:
        """Leaves the directory to another journal; after `close`."""
        os.close(self._lock)

    def _repeat(self, name: bytes, fingerprint: bytes) -> Future[bool]:
        before, written = self._ids[name]
        if before != fingerprint:
            raise EventConflictError(
                "an event of this id was logged, and it says something else", "Give each event an id of its own."
            )
        repeat = _future()
        if written is None:
            _settle(repeat, False)
        else:
            written.add_done_callback(lambda first: _settle(repeat, False, first.exception()))
        return repeat

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            for entries, records in self._parts(batch):
                self._commit(entries, records)
            if self._file is not None and self._rest() <= 0:
                self._seal()
        self._seal()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _parts(self, batch: list[_Entry]) -> Iterator[tuple[list[_Entry], bytes]]:
        """Entries with their records, as many as one sync writes."""
        entries: list[_Entry] = []
        records = bytearray()
        for entry in batch:
            try:
                records += record(_encoded(self._redact(entry.event)))
            except Exception as error:  # of the event's content, or of a hook that others wrote
                self._fail([entry], _unfit(error))
                continue
            entries.append(entry)
            if len(records) >= _BATCH_BYTES:
                yield entries, bytes(records)
                entries, records = [], bytearray()
        if entries:
            yield entries, bytes(records)

    def _next(self) -> list[_Entry] | None:
        """What waits; nothing once the file is old; None at the end."""
        with self._changed:
            while not self._queue and not self._closing:
                rest = self._rest() if self._file is not None else None
                if rest is not None and rest <= 0:
                    return []
                self._changed.wait(rest)
            if not self._queue:
                return None
            batch = list(self._queue)
            self._queue.clear()
            return batch

    def _rest(self) -> float:
        return self._opened + self._limits.seconds - time.monotonic()

    def _commit(self, entries: Sequence[_Entry], records: bytes) -> None:
        """Writes records and answers for them."""
        try:
            if self._waiting + len(records) > self._limits.waiting_bytes:
                raise JournalFullError(f"{self._waiting >> 20} MiB of events are not in the store yet", _ROOM)
            if self._file is None:
                self._open()
            assert self._file is not None
            self._file.append(records)
        except OSError as error:
            # What a failed sync left of a file nobody knows, so nothing more is written to it.
            self._seal()
            self._fail(entries, JournalFullError(disk_error(error, self.directory).message, _ROOM))
            return
        except JournalFullError as error:
            self._fail(entries, error)
            return
        with self._changed:
            self._waiting += len(records)
            self._sizes[self._file.path] = self._file.size
            figures = self._figures
            self._figures = replace(figures, written=figures.written + len(entries), syncs=figures.syncs + 1)
            for entry in entries:
                if entry.name in self._ids:
                    self._ids[entry.name] = (self._ids[entry.name][0], None)
        for entry in entries:
            _settle(entry.written, True)
        if self._file.size >= self._limits.file_bytes:
            self._seal()

    def _open(self) -> None:
        self._count += 1
        self._file = JournalFile(self.directory / f"{segment_name(self._writer, self._count)}{SUFFIX}")
        self._opened = time.monotonic()

    def _seal(self) -> None:
        if self._file is None:
            return
        self._file.close()
        with self._changed:
            if self._file.size:
                self._sealed.append(self._file.path)
            self._file = None
            self._changed.notify_all()

    def _fail(self, entries: Sequence[_Entry], error: StageError) -> None:
        with self._changed:
            self._count_refused(len(entries))
            for entry in entries:
                if entry.name:  # another try is no repeat
                    self._ids.pop(entry.name, None)
        for entry in entries:
            _settle(entry.written, False, error)

    def _count_refused(self, number: int) -> None:
        self._figures = replace(self._figures, refused=self._figures.refused + number)


def _locked(path: Path) -> int:
    """A descriptor that holds the lock until it is closed, or the process ends in whatever way."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BadSpecError(
            f"another process writes the journal in {path.parent}", "Give each gateway a directory of its own."
        ) from None
    return descriptor


def _encoded(event: Event) -> bytes:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _unfit(error: Exception) -> BadDataError:
    """What it quotes may be what a customer wrote, so nothing of it is told."""
    return BadDataError(
        f"an event cannot be written ({type(error).__name__})", "Send valid Unicode; check the hook of redaction."
    )


def _future() -> Future[bool]:
    """One that whoever waits cannot cancel: a client that hung up takes no event back."""
    future: Future[bool] = Future()
    future.set_running_or_notify_cancel()
    return future


def _settle(future: Future[bool], value: bool, error: BaseException | None = None) -> None:
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
