"""Server-sent events of a policy server, as bytes: what is passed on is not parsed."""

import json
from collections.abc import AsyncIterator
from typing import Any, Protocol

_END = b"\n\n"
_DATA = b"data: "
DONE = _DATA + b"[DONE]" + _END
_RECORDS = b'"records":'
"""Only a key: within a text of JSON, quotes are escaped."""
_ERROR = _DATA + b'{"error":'
LARGEST = 64 << 20
"""Bytes of one event: a record holds all messages of its request."""


class BrokenStreamError(Exception):
    """What came is no whole answer of a policy server."""


class ByteSource(Protocol):
    """Where bytes come from."""

    async def readany(self) -> bytes:
        """What has come; nothing at the end."""
        ...


async def events_of(source: ByteSource) -> AsyncIterator[bytes]:
    """The events, each with its end, as they come. Raises BrokenStreamError for one without an end, or too large."""
    rest = bytearray()
    looked = 0
    while part := await source.readany():
        rest += part
        while (end := rest.find(_END, looked)) >= 0:
            yield bytes(rest[: end + len(_END)])
            del rest[: end + len(_END)]
            looked = 0
        looked = max(0, len(rest) - 1)
        if len(rest) > LARGEST:
            raise BrokenStreamError(f"an event is larger than {LARGEST >> 20} MiB")
    if rest:
        raise BrokenStreamError("the last event has no end")


def has_records(event: bytes) -> bool:
    """Whether it brings what is logged."""
    return _RECORDS in event


def is_error(event: bytes) -> bool:
    """Whether the answer ends with it, unfinished."""
    return event.startswith(_ERROR)


def value_of(event: bytes) -> dict[str, Any]:
    """The JSON of an event. Raises BrokenStreamError."""
    try:
        value = json.loads(event.removeprefix(_DATA))
    except (ValueError, RecursionError) as error:
        raise BrokenStreamError("an event is not JSON") from error
    if not isinstance(value, dict):
        raise BrokenStreamError("an event is no JSON object")
    return value


def event_of(value: dict[str, Any]) -> bytes:
    """An event that says this."""
    return _DATA + json.dumps(value, ensure_ascii=False).encode(errors="replace") + _END
