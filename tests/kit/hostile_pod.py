"""A pod that answers whoever asks it for a report as somebody would who means harm."""

import contextlib
import gzip
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

from tests.kit.http_server import HttpServer

Handler = BaseHTTPRequestHandler
MORE_THAN_A_REPORT = 1 << 17


def reply(handler: Handler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in ({"Content-Length": str(len(body))} | headers).items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    with contextlib.suppress(OSError):
        handler.wfile.write(body)


def _endless(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.close_connection = True
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(b" " * (1 << 16))


def _trickle(handler: Handler) -> None:
    """A byte now and then: each of them comes in time."""
    handler.send_response(200)
    handler.end_headers()
    handler.close_connection = True
    with contextlib.suppress(OSError):
        for _ in range(600):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.1)


def _silent(handler: Handler) -> None:
    handler.close_connection = True
    with contextlib.suppress(OSError):
        handler.connection.settimeout(60)
        handler.connection.recv(1)


def _reset(handler: Handler) -> None:
    handler.close_connection = True
    handler.connection.close()


def _garbage(handler: Handler) -> None:
    handler.close_connection = True
    handler.wfile.write(b"\x00\xff this is no HTTP \r\n\r\n")


DEEDS: dict[str, Callable[[Handler], None]] = {
    "no such page": lambda handler: reply(handler, 404, b"{}"),
    "a redirect": lambda handler: reply(handler, 302, b"", Location="/api/v1/secrets"),
    "a redirect to another host": lambda handler: reply(handler, 307, b"", Location="http://192.0.2.1/"),
    "not authorised": lambda handler: reply(handler, 401, b'{"kind": "Status", "code": 401}'),
    "come again later": lambda handler: reply(handler, 429, b"{}", Retry_After="100000"),
    "no report": lambda handler: reply(handler, 503, b'{"error": {"message": "there is no report: S3"}}'),
    "words with a cursor": lambda handler: reply(handler, 500, b'{"message": "\\u001b[2J\\nApproved"}'),
    "many words": lambda handler: reply(handler, 500, b'{"message": "' + b"x" * 60_000 + b'"}'),
    "a deep refusal": lambda handler: reply(handler, 500, b"[" * 60_000),
    "a number as words": lambda handler: reply(handler, 500, b'{"message": 1}'),
    "too much": lambda handler: reply(handler, 200, b" " * MORE_THAN_A_REPORT),
    "too much of a refusal": lambda handler: reply(handler, 500, b" " * MORE_THAN_A_REPORT),
    "less than it says": lambda handler: reply(handler, 200, b"{", Content_Length="9999", Connection="close"),
    "no end": _endless,
    "a trickle": _trickle,
    "silence": _silent,
    "a reset": _reset,
    "no HTTP": _garbage,
}
"""None of these is an answer."""


class HostilePod(HttpServer):
    """Does what `deed` says."""

    def __init__(self) -> None:
        self.deed: Callable[[Handler], None] = DEEDS["no such page"]
        self.headers: list[dict[str, str]] = []
        """Of all requests, by lower-case names."""
        self.paths: list[str] = []

    def serve(self, handler: Handler) -> None:
        self.headers.append({name.lower(): value for name, value in handler.headers.items()})
        self.paths.append(handler.path)
        self.deed(handler)

    def answers(self, body: bytes, **headers: str) -> None:
        """From now on, with 200."""
        self.deed = lambda handler: reply(handler, 200, body, **headers)

    def answers_zipped(self, body: bytes) -> None:
        """A few bytes that are many."""
        self.answers(gzip.compress(body), Content_Encoding="gzip")
