"""The small interface that every artifact store has, and its two ordinary failures."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ippo_trainer.contract.errors import BadDataError

READ_LIMIT = 64 << 20


class ObjectNotFoundError(BadDataError):
    """No object has that key."""


class ObjectExistsError(BadDataError):
    """A conditional put found an object with that key; it was left as it is."""


@dataclass(frozen=True)
class ObjectInfo:
    """An object's key, relative to the store's root, and its size in bytes."""

    key: str
    size: int


class Store(Protocol):
    """Objects by key. Keys are relative to the run's folder and pass `layout.check_key`.

    A put is atomic: readers see the old object, the new one, or none, never a part. Every method raises
    `BadSpecError` for a wrong key, place or permission, and `TryAgainError` when the store does not answer or is full.
    """

    def put(self, key: str, source: Path | bytes, *, if_absent: bool = False) -> None:
        """Stores a file or bytes. With `if_absent`, raises ObjectExistsError instead of replacing an object."""

    def read(self, key: str, limit: int = READ_LIMIT) -> bytes:
        """An object's bytes. Raises ObjectNotFoundError, or BadDataError if it has more than `limit` bytes."""

    def download(self, key: str, path: Path) -> None:
        """Writes an object to a file, in constant memory, unverified. Raises ObjectNotFoundError."""

    def info(self, key: str) -> ObjectInfo | None:
        """The object's size, None if there is none."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects below the folder `prefix` (`""`: all), in no particular order, page by page.

        Names that `check_key` refuses, such as a writer's temporary files, are no objects of ours and left out.
        """

    def delete(self, key: str) -> None:
        """Deletes an object; one that is not there is no error."""

    def describe(self, key: str) -> str:
        """Where an object is, for people: a path or an `s3://` URL without credentials."""
