"""What an exception of a simulator means: a fault of its code, or a world that was not ready; and where it arose."""

import errno
import http.client
import socket
import ssl
import traceback
from typing import Any

from ippo_trainer.contract.errors import BadDataError, StageError, TryAgainError

_PASSING = (
    TimeoutError,
    ConnectionError,
    socket.gaierror,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
    http.client.IncompleteRead,
    http.client.BadStatusLine,
)
_PASSING_NUMBERS = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL}
# Libraries have exceptions of their own for the same, which derive from none of these.
_PASSING_NAMES = {
    "TryAgain",
    "Timeout",
    "TimeoutError",
    "TimeoutException",
    "TimeoutExpired",
    "HTTPTimeoutError",
    "ConnectionError",
    "ConnectError",
    "APIConnectionError",
    "ClientConnectionError",
    "HTTPClientError",
    "NetworkError",
    "RemoteProtocolError",
    "ProtocolError",
    "ProxyError",
    "ServerNotFoundError",
    "ChunkedEncodingError",
    "MaxRetryError",
    "RateLimitError",
    "TooManyRequests",
    "ServiceUnavailable",
    "DeadlineExceeded",
}
_PASSING_STATUS = {408, 425, 429, *range(500, 600)}
_STATUS_FIELDS = ("status_code", "status", "http_status", "code")
_REMEDY = "The simulator, or a service that it calls, was not ready; the stage can be started again."


def failure(what: str, error: BaseException, module: str = "") -> StageError:
    """The StageError for an exception of user code.

    Args:
        what: e.g. `environment TeaShop.step raised`.
        error: an Exception or SystemExit.
        module: the file that holds the environment's class; the innermost line of it is named.
    """
    if isinstance(error, StageError):
        return error
    if passes(error):
        return TryAgainError(f"{what} {short(error)}", _REMEDY)
    return BadDataError(f"{what} {short(error)}{_place(error, module)}")


def short(error: BaseException) -> str:
    """An exception on one line."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # it is somebody else's class
        text = "without a readable message"
    return f"{type(error).__name__}: {text:.300}"


def passes(error: BaseException) -> bool:
    """Whether an exception is about the moment: a timeout, a connection, a service that is busy; or made from one."""
    visited: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in visited:
        if _is_passing(current):
            return True
        visited.add(id(current))
        current = current.__cause__  # not __context__: a bug in the handling of a timeout is a bug
    return False


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(passes(each) for each in error.exceptions)
    if isinstance(error, _PASSING) or (isinstance(error, OSError) and error.errno in _PASSING_NUMBERS):
        return True
    if _PASSING_NAMES.intersection(kind.__name__ for kind in type(error).__mro__):
        return True
    return not isinstance(error, SystemExit) and _status(error) in _PASSING_STATUS


def _status(error: BaseException) -> Any:
    """The HTTP status that an exception of urllib, requests, httpx, aiohttp, openai, botocore, … carries."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        metadata = response.get("ResponseMetadata")
        return metadata.get("HTTPStatusCode") if isinstance(metadata, dict) else None
    values = (getattr(holder, name, None) for holder in (error, response) for name in _STATUS_FIELDS)
    return next((value for value in values if isinstance(value, int) and not isinstance(value, bool)), None)


def _place(error: BaseException, module: str) -> str:
    """` (file.py, line 12, in step)`: the innermost frame of the environment's own file, or else of all."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == module] or frames[1:]
    if not own:
        return ""
    return f" ({own[-1].filename.rpartition('/')[2]}, line {own[-1].lineno}, in {own[-1].name})"
