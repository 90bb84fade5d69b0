"""The working directory of a stage: empty at the start, gone at the end, swept by the next one after a kill."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ippo_trainer.store.disk import disk_errors

_PREFIX = "ippo-stage-"
_LOCK = "lock"


@contextmanager
def work_directory(parent: Path | None) -> Iterator[Path]:
    """A new empty directory below `parent` (default: the system's temporary folder), removed at the end.

    A kill leaves its directory behind; whoever comes next removes it, because nobody holds its lock any more.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    with disk_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent)
        home = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = _hold(home)
        work = home / "work"
        work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(home, ignore_errors=True)
        os.close(lock)


def _hold(home: Path) -> int:
    """Locks before the lock has its name, so that a sweep never sees it free."""
    descriptor = os.open(home / f".{_LOCK}", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    (home / f".{_LOCK}").rename(home / _LOCK)
    return descriptor


def _sweep(parent: Path) -> None:
    for home in parent.glob(f"{_PREFIX}*"):
        try:
            descriptor = os.open(home / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(home, ignore_errors=True)
        except OSError:
            continue
        finally:
            os.close(descriptor)
