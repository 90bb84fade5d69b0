"""System calls of a journal's files that fail where a test says so."""

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest
from ippo_trainer.live import journal_file

CALLS = ("open", "write", "fdatasync", "fsync", "ftruncate")


class FaultyDisk:
    """Counts system calls; those whose numbers `fails` names fail. A write that fails writes half of it first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int = errno.ENOSPC) -> None:
        self.code = code
        self.count = 0
        self.fails: Callable[[str, int], bool] = lambda name, number: False
        for name in CALLS:
            monkeypatch.setattr(journal_file.os, name, self._faulty(name, getattr(os, name)))

    def _faulty(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def faulty(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.fails(name, self.count):
                if name == "write" and len(arguments[1]) > 1:
                    call(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise OSError(self.code, os.strerror(self.code))
            return call(*arguments, **options)

        return faulty
