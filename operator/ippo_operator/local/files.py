"""Files that are whole or not there."""

import json
import os
from pathlib import Path
from typing import Any

_SHOWN, _TAIL_BYTES = 400, 8192


def write_atomically(path: Path, body: bytes) -> None:
    """Replaces the file at once: after a crash it holds the old bytes or the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Writes readable JSON atomically."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n")


def last_line(log: Path) -> str:
    """The last line of a log, as far as a message shows it; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:_SHOWN] if lines else ""


def read_bytes(path: Path, limit: int) -> bytes | None:
    """The file's bytes; None if it is missing or larger than `limit`."""
    try:
        with path.open("rb") as file:
            body = file.read(limit + 1)
    except FileNotFoundError:
        return None
    return body if len(body) <= limit else None
