"""The store in a local directory (or a shared volume): one file per object."""

import contextlib
import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ippo_trainer.contract.digests import PIECE
from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.contract.layout import check_key, is_key
from ippo_trainer.store.base import READ_LIMIT, ObjectExistsError, ObjectInfo, ObjectNotFoundError
from ippo_trainer.store.disk import disk_error, disk_errors, sync_directory

PARTS = ".parts"
_ABANDONED = 3600.0
_ATTEMPTS = 10
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


class LocalStore:
    """Objects are files below `root`. A put writes and syncs a file in the hidden folder `.parts`, then moves it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._resolved: Path | None = None
        self._swept = False

    def put(self, key: str, source: Path | bytes, *, if_absent: bool = False) -> None:
        path = self._path(key)
        with disk_errors(path):
            self._sweep()
            temporary = self.root / PARTS / secrets.token_hex(8)
            try:
                _write_synced(temporary, source)
                self._move(temporary, path, key, if_absent)
            finally:
                temporary.unlink(missing_ok=True)

    def read(self, key: str, limit: int = READ_LIMIT) -> bytes:
        with self._open(key) as file, disk_errors(self._path(key)):
            data = file.read(limit + 1)
        if len(data) > limit:
            raise BadDataError(f"{self.describe(key)} has more than {limit} bytes", "It is not what it should be.")
        return data

    def download(self, key: str, path: Path) -> None:
        with self._open(key) as file, disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as target:
                shutil.copyfileobj(file, target, PIECE)

    def info(self, key: str) -> ObjectInfo | None:
        try:
            with self._open(key) as file:
                return ObjectInfo(key, os.fstat(file.fileno()).st_size)
        except ObjectNotFoundError:
            return None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder = self._path(prefix) if prefix else self.root
        with disk_errors(folder):
            yield from self._walk(folder, f"{prefix}/" if prefix else "")

    def delete(self, key: str) -> None:
        path = self._path(key)
        with disk_errors(path):
            self._check_inside(path.parent, key)
            try:
                path.unlink(missing_ok=True)
            except NotADirectoryError:
                return
            self._remove_empty(path.parent)

    def describe(self, key: str) -> str:
        return str(self.root / key)

    def _sweep(self) -> None:
        """Once per store: makes `.parts`, and removes what killed writers left there an hour ago or earlier."""
        if self._swept:
            return
        (self.root / PARTS).mkdir(parents=True, exist_ok=True)
        for part in (self.root / PARTS).iterdir():
            with contextlib.suppress(FileNotFoundError):
                if part.stat().st_mtime < time.time() - _ABANDONED:
                    part.unlink()
        self._swept = True

    def _move(self, temporary: Path, path: Path, key: str, if_absent: bool) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._check_inside(path.parent, key)
                if if_absent:
                    self._link(temporary, path)
                else:
                    temporary.replace(path)
                sync_directory(path.parent)
                return
            except FileNotFoundError:
                # A delete elsewhere took the empty folder away between the two steps.
                if attempt == _ATTEMPTS - 1 or not temporary.exists():
                    raise

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _remove_empty(self, folder: Path) -> None:
        """Folders are no objects: an empty one goes, with its empty parents."""
        with contextlib.suppress(OSError):
            while folder != self.root:
                folder.rmdir()
                folder = folder.parent

    def _check_inside(self, path: Path, key: str) -> None:
        if self._resolved is None:
            self._resolved = self.root.resolve()
        if not path.resolve().is_relative_to(self._resolved):
            raise BadSpecError(
                f"artifact key {key!r} leads out of {self.root}", "Remove the symbolic link in its path."
            )

    def _open(self, key: str) -> IO[bytes]:
        """Opens a regular file without following links and without blocking on pipes or devices."""
        path = self._path(key)
        try:
            self._check_inside(path, key)
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ObjectNotFoundError(f"{path} does not exist") from error
        except OSError as error:
            raise disk_error(error, path) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ObjectNotFoundError(f"{path} is not a regular file")
        return os.fdopen(descriptor, "rb")

    def _link(self, temporary: Path, path: Path) -> None:
        try:
            os.link(temporary, path)
        except FileExistsError as error:
            raise ObjectExistsError(f"{path} exists already") from error
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise BadSpecError(
                    f"the file system of {self.root} has no hard links, which conditional puts need",
                    "Keep artifacts on another file system, or in S3.",
                ) from error
            raise

    def _walk(self, folder: Path, prefix: str) -> Iterator[ObjectInfo]:
        try:
            entries = os.scandir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return
        with entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from self._walk(folder / entry.name, f"{prefix}{entry.name}/")
                elif entry.is_file(follow_symlinks=False) and is_key(prefix + entry.name):
                    with contextlib.suppress(FileNotFoundError):
                        yield ObjectInfo(prefix + entry.name, entry.stat(follow_symlinks=False).st_size)


def _write_synced(path: Path, source: Path | bytes) -> None:
    with path.open("xb") as target:
        if isinstance(source, bytes):
            target.write(source)
        else:
            with source.open("rb") as file:
                shutil.copyfileobj(file, target, PIECE)
        target.flush()
        os.fsync(target.fileno())
