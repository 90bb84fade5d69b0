"""The items of a JSON array in a file, one after another, without the array in memory."""

import codecs
import re
from collections.abc import Iterator
from typing import IO

_PIECE = 1 << 16
_SPACE = b" \t\r\n"
_MARKS = re.compile(rb'["\\{}\[\]]')
"""What can change the depth of nesting, or begin, end or escape in a text."""


class _Buffer:
    """Bytes of a file from a position on; more are read when they are asked for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.data = file.read(_PIECE).removeprefix(codecs.BOM_UTF8)

    def more(self) -> bool:
        """Reads a piece; False at the end of the file."""
        piece = self._file.read(_PIECE)
        self.data += piece
        return bool(piece)

    def skip_space(self) -> bytes:
        """The next byte that is no white space, which stays; empty at the end."""
        while True:
            self.data = self.data.lstrip(_SPACE)
            if self.data:
                return self.data[:1]
            if not self.more():
                return b""

    def take(self, count: int) -> bytes:
        """The first bytes, which are gone from the buffer."""
        taken, self.data = self.data[:count], self.data[count:]
        return taken


def array_items(file: IO[bytes], longest: int) -> Iterator[bytes]:
    """The bytes of every item, which have to be objects; whether they are JSON is for others to judge.

    Raises:
        ValueError: no array, an item that is no object or longer than `longest` bytes, or an array without an end.
    """
    buffer = _Buffer(file)
    if buffer.skip_space() != b"[":
        raise ValueError("the file does not begin with [")
    buffer.take(1)
    while (mark := buffer.skip_space()) != b"]":
        if mark == b",":
            buffer.take(1)
            continue
        if mark != b"{":
            raise ValueError(f"{mark.decode(errors='replace')!r} where an object was expected" if mark else "no ]")
        yield buffer.take(_end(buffer, longest))


def _end(buffer: _Buffer, longest: int) -> int:
    """Where the object that the buffer begins with ends."""
    depth, in_text, position = 0, False, 0
    while True:
        found = _MARKS.search(buffer.data, position)
        if found is None:
            position = max(position, len(buffer.data))  # what a backslash escapes may be yet to come
            if position > longest:
                raise ValueError(f"an item is longer than {longest >> 20} MiB")
            if not buffer.more():
                raise ValueError("the last item has no end")
            continue
        mark, position = found.group(), found.end()
        if in_text:
            if mark == b"\\":
                position += 1
            in_text = mark != b'"'
        elif mark == b'"':
            in_text = True
        elif mark in b"{[":
            depth += 1
        elif mark in b"}]":
            depth -= 1
            if depth == 0:
                return position
