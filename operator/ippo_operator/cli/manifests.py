"""Reads the manifest that -f names."""

import sys
from pathlib import Path

from ippo_operator.api.load import MAX_BYTES, load_run
from ippo_operator.api.problems import ManifestError
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.cli.errors import CommandError


def read_manifest(place: str, name: str | None) -> IterativePPORun:
    """The run in a file, or on standard input for `-`. Raises CommandError with one line per problem."""
    try:
        body = sys.stdin.buffer.read(MAX_BYTES + 1) if place == "-" else Path(place).read_bytes()
        text = body.decode()
    except OSError as error:
        raise CommandError(f"cannot read {place}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise CommandError(f"{place}: not UTF-8 text (byte {error.start})") from None
    try:
        return load_run(text, name)
    except ManifestError as error:
        raise CommandError(explain(place, error)) from None


def explain(place: str, error: ManifestError) -> str:
    """Each problem on a line of its own, after the file's name."""
    shown = "standard input" if place == "-" else place
    return "\n".join(f"{shown}: {problem}" for problem in error.problems)
