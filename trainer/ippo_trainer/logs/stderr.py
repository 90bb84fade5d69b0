"""A process's log: lines on standard error, secrets masked."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from ippo_trainer.contract.lines import printable
from ippo_trainer.logs.secrets import Redactor


class _Formatter(logging.Formatter):
    """`2026-01-31T12:00:00Z INFO text`, secrets masked. Tracebacks are set off: no quoted text forges a line."""

    def __init__(self, redact: Redactor) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._redact = redact

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "\n".join(f"    {printable(line)}" for line in super().formatException(ei).split("\n"))

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))


class _Handler(logging.Handler):
    """Writes to standard error, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


@contextmanager
def logging_to_stderr(redact: Redactor) -> Iterator[None]:
    """Sends this package's messages from INFO and everybody's from WARNING, Python's warnings too, to stderr."""
    handler = _Handler()
    handler.setFormatter(_Formatter(redact))
    package, root = logging.getLogger("ippo_trainer"), logging.getLogger()
    level = package.level
    package.setLevel(logging.INFO)
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        package.setLevel(level)
