"""Digests of values and files: SHA-256 of canonical JSON, and of bytes read in pieces."""

import hashlib
import json
from pathlib import Path
from typing import Any

PIECE = 1 << 20
DIGEST = r"^sha256:[0-9a-f]{64}$"
"""The pattern of a digest."""
NO_DIGEST = f"sha256:{'0' * 64}"
"""Of nothing: where there has to be a digest and none is known."""


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no white space: equal values give equal bytes. NaN is refused (ValueError)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of(value: Any) -> str:
    """`sha256:<hex>` of a JSON value."""
    return "sha256:" + hashlib.sha256(canonical_json(value)).hexdigest()


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces of 1 MiB."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def derive_seed(seed: int, *parts: str | int) -> int:
    """A 63-bit seed that depends on every part, so that stages and shards never share a random stream."""
    text = "/".join([str(seed), *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
