"""Files that are no log of lines, told by their first line: once, with the remedy, and not again on every line."""

import re
from typing import NamedTuple

from ippo_trainer.contract.errors import BadDataError


class _Beginning(NamedTuple):
    pattern: re.Pattern[bytes]
    what: str
    remedy: str


def _row(pattern: bytes, what: str, remedy: str) -> _Beginning:
    return _Beginning(re.compile(pattern, re.DOTALL), what, remedy)


_LINES = "Write each conversation on one line; `jq -c . FILE` does it."
_BEGINNINGS = (
    _row(rb"\x1f\x8b", "is packed with gzip", "Give the file a name that ends in .jsonl.gz."),
    _row(rb"PAR1", "is parquet", "Give the file a name that ends in .parquet."),
    _row(rb"PK(?:\x03\x04|\x05\x06|\x07\x08)", "is a zip archive or an office table", "Unpack it, or export .jsonl."),
    _row(
        rb"BZh[1-9]|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf",
        "is packed, but not with gzip",
        "Unpack it, or pack it with gzip and give it a name that ends in .jsonl.gz.",
    ),
    _row(rb"[^\n]{257}ustar", "is a tar archive", "Unpack it and give the log that is in it."),
    _row(rb"%PDF-", "is a PDF", "Export the log again, as JSON."),
    _row(rb"\xff\xfe|\xfe\xff|.{0,3}\x00", "is not UTF-8 but looks like UTF-16 or UTF-32", "Save the log as UTF-8."),
    _row(rb"\s*[^\s{\[][^\n]*\x00", "is binary, and no text", "Export the log again, as JSON."),
    _row(rb"\s*<", "looks like a page of HTML or XML", "Export the log again, as JSON."),
    _row(rb"\s*\[", "begins with [", "Write one object on each line; one JSON array has a name that ends in .json."),
    _row(rb"\s*\{\s*$", "begins an object that does not end on its line", _LINES),
    _row(rb"[^\r\n]+\r(?!\n?$)", "has lines that end in a carriage return alone", "End them with line feeds."),
    _row(
        rb'\s*"?[A-Za-z][\w -]*"?(?:[,;\t] *"?[\w -]*"?)+\s*$',
        "looks like a table",
        "Write one JSON object for each conversation, with its messages; docs/chat-logs.md has the format.",
    ),
)


def check_beginning(name: str, line: bytes) -> None:
    """Raises BadDataError where the first line of a file says that it holds no lines of JSON.

    Args:
        name: of the file.
        line: its first one, without a byte order mark; of a long one, its beginning.
    """
    for pattern, what, remedy in _BEGINNINGS:
        if pattern.match(line):
            raise BadDataError(f"{name}, line 1 {what}", remedy)
