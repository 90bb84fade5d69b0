"""Secrets of a process, and their mask in text."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

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
