"""The items of a JSON array in a file, one after another, without the array in memory."""

import codecs
import re
from collections.abc import Iterator
from typing import IO

_PIECE = 1 << 16
_NO_SPACE = re.compile(rb"[^ \t\r\n]")
_MARKS = re.compile(rb'["\\{}\[\]]')
"""What can change the depth of nesting, or begin, end or escape in a text."""


class _Buffer:
    """Bytes of a file from `start` on; more are read when they are asked for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.data = file.read(_PIECE).removeprefix(codecs.BOM_UTF8)
        self.start = 0

    def more(self) -> bool:
        """Reads a piece, and forgets what is before `start`; False at the end of the file."""
        piece = self._file.read(max(_PIECE, len(self.data) - self.start))  # long items cost no more than short ones
        self.data, self.start = self.data[self.start :] + piece, 0
        return bool(piece)

    def skip_space(self) -> bytes:
        """The next byte that is no white space, which stays; empty at the end."""
        while True:
            match = _NO_SPACE.search(self.data, self.start)
            if match is not None:
                self.start = match.start()
                return match.group()
            self.start = len(self.data)
            if not self.more():
                return b""

    def take(self, count: int) -> bytes:
        """The next bytes, which are gone from the buffer."""
        self.start += count
        return self.data[self.start - count : self.start]


def array_items(file: IO[bytes], longest: int) -> Iterator[bytes]:
    """The bytes of every item, which have to be objects; whether they are JSON is for others to judge.

    Raises:
        ValueError: no array, an item that is no object or longer than `longest` bytes, an array without an end, or
            something behind it.
    """
    buffer = _Buffer(file)
    if (mark := buffer.skip_space()) != b"[":
        raise ValueError(
            f"the file does not begin with [ but {repr(mark.decode(errors='replace')) if mark else 'is empty'}"
        )
    buffer.take(1)
    while (mark := buffer.skip_space()) != b"]":
        if mark == b",":
            buffer.take(1)
            continue
        if mark != b"{":
            raise ValueError(f"{mark.decode(errors='replace')!r} where an object was expected" if mark else "no ]")
        yield buffer.take(_length(buffer, longest))
    buffer.take(1)
    if mark := buffer.skip_space():
        raise ValueError(f"{mark.decode(errors='replace')!r} after the array's end")


def _length(buffer: _Buffer, longest: int) -> int:
    """Of the object that the buffer begins with."""
    depth, in_text, length = 0, False, 0
    while True:
        match = _MARKS.search(buffer.data, buffer.start + length)
        if match is None:
            # What a backslash escapes may be yet to come.
            length = max(length, len(buffer.data) - buffer.start)
            if length > longest:
                raise ValueError(f"an item is longer than {longest >> 20} MiB")
            if not buffer.more():
                raise ValueError("the last item has no end")
            continue
        mark, length = match.group(), match.end() - buffer.start
        if in_text:
            if mark == b"\\":
                length += 1
            in_text = mark != b'"'
        elif mark == b'"':
            in_text = True
        elif mark in b"{[":
            depth += 1
        elif mark in b"}]":
            depth -= 1
            if depth == 0:
                return length
