"""What a stage says: log lines, the termination message, and never a secret."""

import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ippo_trainer.contract.digests import canonical_json
from ippo_trainer.contract.lines import printable
from ippo_trainer.contract.spec import MAX_RESULT_BYTES
from ippo_trainer.contract.variables import CREDENTIALS_FILE, HOME, WEB_IDENTITY_FILE

_SECRET_NAME = re.compile(
    r"(^|_)(SECRET|SECRETS|TOKEN|PASSWORD|PASSWD|CREDENTIAL|CREDENTIALS|ACCESS_KEY|API_KEY|PRIVATE_KEY)(_|$)"
)
_SECRET_FILES = (CREDENTIALS_FILE, WEB_IDENTITY_FILE, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
_SECRET_TEXT = re.compile(
    r"(?<=://)[^/\s@]+(?=@)"  # user:password@ of a URL
    r"|(?<=X-Amz-Signature=)[^&\s]+|(?<=X-Amz-Credential=)[^&\s]+|(?<=X-Amz-Security-Token=)[^&\s]+"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
)
_SHORTEST = 8
_MASK = "[secret]"
_log = logging.getLogger(__name__)


class Redactor:
    """Replaces secrets in text: what this process's environment and credentials files hold, and what looks like one.

    Values shorter than 8 characters are left alone: masking them would make nonsense of ordinary words.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        values = {
            v for name, v in environ.items() if _SECRET_NAME.search(name) and not name.endswith(("_FILE", "_URI"))
        }
        files = [environ[name] for name in _SECRET_FILES if environ.get(name)]
        for path in [*files, str(Path(environ.get(HOME, "/")) / ".aws" / "credentials")]:
            values |= _values_of(Path(path))
        secrets = sorted((v for v in values if len(v) >= _SHORTEST), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, secrets))) if secrets else None

    def __call__(self, text: str) -> str:
        """The text with every secret masked."""
        if self._pattern is not None:
            text = self._pattern.sub(_MASK, text)
        return _SECRET_TEXT.sub(_MASK, text)


def _values_of(path: Path) -> set[str]:
    """The values in a credentials file (`name = value` lines), or the one token that it is."""
    try:
        with path.open(encoding="utf-8") as file:
            lines = file.read(1 << 16).splitlines()
    except (OSError, UnicodeDecodeError):
        return set()
    return {line.partition("=")[2].strip() if "=" in line else line.strip() for line in lines}


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


def error_message(reason: str, message: str) -> bytes:
    """`{"error": {"reason", "message"}}` in at most 3 KiB: a longer message is cut.

    Messages quote what users and libraries wrote; half a surrogate pair, which has no UTF-8, is escaped.
    """
    message = message.encode("utf-8", "backslashreplace").decode()
    length = len(message)
    while True:
        text = message if length >= len(message) else message[:length] + "…"
        body = canonical_json({"error": {"reason": reason, "message": text}})
        if len(body) <= MAX_RESULT_BYTES:
            return body
        length = min(length, len(message)) - max(1, (len(body) - MAX_RESULT_BYTES) // 6)


def write_termination_log(path: Path | None, body: bytes) -> None:
    """Writes the pod's termination message. That it cannot be written is a warning: the exit code still counts."""
    if path is None:
        return
    try:
        path.write_bytes(body)
    except OSError as error:
        _log.warning("cannot write the termination log %s: %s", path, error.strerror)
