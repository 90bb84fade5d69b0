"""The operating system's errors about files, in the terms of the stage contract."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ippo_trainer.contract.errors import BadSpecError, StageError, TryAgainError

FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


def disk_error(error: OSError, path: Path | str) -> StageError:
    """The StageError that stands for an OSError at `path`: full disks and I/O errors may pass, refusals do not."""
    what = error.strerror or type(error).__name__
    if error.errno in FULL:
        return TryAgainError(
            f"the disk that holds {path} is full ({what})",
            "Free space there or give it a larger volume; nothing was half-published.",
        )
    if error.errno in _REFUSED:
        return BadSpecError(f"cannot use {path}: {what}", "Check the path, its owner and permissions.")
    return TryAgainError(f"input/output error at {path}: {what}", "Check the volume; the stage can be started again.")


@contextmanager
def disk_errors(path: Path | str) -> Iterator[None]:
    """Turns an OSError of the body into the StageError of `disk_error`."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, error.filename or path) from error


def sync_directory(path: Path) -> None:
    """So that a new file's name outlives a crash of the machine. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
