"""Bodies of requests: bounded in bytes, time and depth, and JSON objects that have UTF-8."""

import asyncio
import json
from typing import Any

from aiohttp import web

from ippo_trainer.http.errors import RequestError
from ippo_trainer.http.json_bodies import json_of

DEEPEST = 32
"""Objects and lists within each other."""
_JSON = "application/json"


def size_of(request: web.Request, limit: int) -> int:
    """Bytes that a body may have: what it says, else the limit. Raises RequestError, 413, for a larger one."""
    said = request.content_length
    if said is not None and said > limit:
        raise RequestError(413, f"the body is larger than {limit >> 10} KiB")
    return limit if said is None or "Content-Encoding" in request.headers else said


async def read_object(request: web.Request, limit: int, seconds: float) -> dict[str, Any]:
    """The JSON object in a body.

    Args:
        request: of a client.
        limit: bytes, unpacked.
        seconds: in which it has to come.

    Raises:
        RequestError: 400, 408, 413 or 415.
    """
    if request.content_type != _JSON:
        # Else a page of any origin could send it from a browser unasked: other types need no preflight.
        raise RequestError(415, f"the body is {request.content_type}: send Content-Type: {_JSON}")
    try:
        async with asyncio.timeout(seconds):
            body = await _read(request, limit)
    except TimeoutError as error:
        raise RequestError(408, f"the body did not come within {seconds:g} seconds") from error
    except web.RequestPayloadError as error:
        raise RequestError(400, "the body is not what Content-Encoding or Transfer-Encoding says") from error
    return parsed(body)


async def _read(request: web.Request, limit: int) -> bytes:
    body = bytearray()
    while part := await request.content.readany():
        body += part
        if len(body) > limit:
            raise RequestError(413, f"the body is larger than {limit >> 10} KiB")
    return bytes(body)


def parsed(body: bytes) -> dict[str, Any]:
    """The object of a body. Raises RequestError, 400, that says why there is none."""
    value = json_of(body)
    if not isinstance(value, dict):
        raise RequestError(400, "the body is no JSON object")
    _check_depth(value)
    return value


def encoded(value: Any) -> bytes:
    """JSON in UTF-8. Raises RequestError, 400, for what has none: half a surrogate pair, a number that is infinite."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise RequestError(400, "the body holds half a surrogate pair, which is no character") from error
    except ValueError as error:
        raise RequestError(400, "the body holds a number that is too large") from error


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise RequestError(400, f"the body is more than {DEEPEST} objects and lists deep")
        within = (each for outer in level for each in (outer.values() if isinstance(outer, dict) else outer))
        level = [each for each in within if isinstance(each, dict | list)]
