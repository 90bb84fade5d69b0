"""A folder for bases that outlives a pod: who shares it downloads each base once."""

import errno
import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ippo_trainer.contract.errors import BadSpecError, TryAgainError
from ippo_trainer.contract.variables import BASE_CACHE
from ippo_trainer.store.disk import disk_errors

LONGEST_WAIT_SECONDS = 3600.0
"""For another process that downloads the same base."""
_LOOK_SECONDS = 0.5
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_log = logging.getLogger(__name__)


def folder(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder that IPPO_BASE_CACHE names; None where it names none.

    Raises:
        BadSpecError: it is no absolute path of a folder.
    """
    text = environment.get(BASE_CACHE, "")
    if not text:
        return None
    path = Path(text)
    if not path.is_absolute() or not path.is_dir():
        raise BadSpecError(
            f"{BASE_CACHE} is {text!r:.200}, not the absolute path of a folder",
            "Mount a volume there, in a cluster by spec.pods.common.volumes with readOnly: false.",
        )
    return path


def fetch_once(
    cache: Path, name: str, download: Callable[[Path], object], problem: Callable[[Path], str | None]
) -> Path:
    """The verified folder `cache/name`, downloaded by one process of all that want it.

    A folder that is damaged is there until another one can take its place, since others may be reading it.

    Args:
        cache: what `folder` gives; whoever shares it may be killed at any time.
        name: one path segment that depends on the content alone.
        download: fills a new folder, or raises.
        problem: what is wrong with what an earlier download left; None where it is whole.

    Raises:
        TryAgainError: another process has been downloading it for an hour, or the disk is full.
        BadSpecError: the folder cannot be written, or its volume has no locks.
    """
    place = cache / name
    if _whole(place, problem):
        return place
    with disk_errors(cache), _alone(cache / f".{name}.lock"):
        if _whole(place, problem):
            return place
        for remains in cache.glob(f".{name}.partial-*"):
            shutil.rmtree(remains, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{name}.partial-", dir=cache))
        try:
            download(partial / name)
            if os.path.lexists(place):
                place.replace(partial / "damaged")
            (partial / name).replace(place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return place


def _whole(place: Path, problem: Callable[[Path], str | None]) -> bool:
    if not os.path.lexists(place):
        return False
    try:
        wrong = problem(place)
    except FileNotFoundError as error:  # somebody else has begun to mend it
        wrong = f"{error.filename} is gone"
    if wrong:
        _log.warning("the base in %s is damaged and is downloaded again: %s", place, wrong)
    return not wrong


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Holds a file's lock, which ends with the process; waits for whoever holds it."""
    # Opened for writing, as NFS asks of who holds it alone, by pods with other users too.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        with suppress(PermissionError):
            os.fchmod(descriptor, 0o666)  # the umask took that
        _lock(descriptor, path)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    waiting = False
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TryAgainError(
                    f"another process has been downloading a base into {path.parent} for an hour",
                    f"Look for a pod that hangs; without {BASE_CACHE} every pod downloads its own.",
                ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            raise BadSpecError(
                f"{BASE_CACHE}: the volume at {path.parent} has no locks ({error.strerror})",
                "Use another volume, such as a disk of the node or NFS 4, or leave the variable out.",
            ) from error
        if not waiting:
            waiting = True
            _log.info("another process downloads the base into %s: waiting for it", path.parent)
        time.sleep(_LOOK_SECONDS)
