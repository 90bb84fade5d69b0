"""A file that may change: Secrets and ConfigMaps are mounted as links that are exchanged."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from ippo_trainer.contract import wrong
from ippo_trainer.contract.errors import BadDataError, StageError
from ippo_trainer.contract.lines import one_line

_T = TypeVar("_T")
_LARGEST = 1 << 20
_LONGEST = 300
_log = logging.getLogger(__name__)


class Watched(Generic[_T]):
    """What a file says, as far as it could be read.

    Args:
        path: of the file.
        what: it is, for log lines.
        read: from its text; may raise BadDataError or pydantic's error. Neither may quote a secret.

    Raises:
        BadDataError: it cannot be read now. Later, what was read last stays.
    """

    def __init__(self, path: Path, what: str, read: Callable[[str], _T]) -> None:
        self._path, self._what, self._read = path, what, read
        self._seen: tuple[int, ...] = ()
        self.stale = False
        """Whether the file says something that cannot be read."""
        self.current: _T = self._load()

    def look(self) -> None:
        """Reads the file if it has changed. What cannot be read is told once, and changes nothing."""
        if self._stamp() == self._seen:
            return
        try:
            self.current = self._load()
        except BadDataError as error:
            self.stale = True
            _log.error("%s; what was read before still holds", error)
            return
        self.stale = False
        _log.info("%s: read again", self._what)

    async def keep(self, seconds: float) -> None:
        """Looks every so many seconds, until it is cancelled."""
        while True:
            await asyncio.sleep(seconds)
            self.look()

    def _load(self) -> _T:
        # Before the text is read: what changes meanwhile is read again.
        self._seen = self._stamp()
        try:
            with self._path.open(encoding="utf-8") as file:
                text = file.read(_LARGEST + 1)
            if len(text) > _LARGEST:
                raise BadDataError(f"it is larger than {_LARGEST >> 20} MiB")
            return self._read(text)
        except ValidationError as error:
            why = "; ".join(f"{where or 'it'} {problem}" for where, problem in wrong.problems(error))
        except OSError as error:
            why = error.strerror or type(error).__name__
        except UnicodeDecodeError:
            why = "it is not UTF-8"
        except StageError as error:
            why = str(error)
        raise BadDataError(f"{self._what} {self._path} cannot be read: {one_line(why, _LONGEST)}")

    def _stamp(self) -> tuple[int, ...]:
        try:
            status = self._path.stat()
        except OSError:
            return (0,)
        return status.st_mtime_ns, status.st_ino, status.st_size
