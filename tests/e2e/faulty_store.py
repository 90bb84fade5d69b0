"""An HTTP proxy before the S3 store that can be down, slow, or answer one request in five with 503."""

import http.client
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length"}


class FaultyStore:
    """Use as a context manager.

    Args:
        upstream: the store's address from here.
        host: this machine's address as pods see it.
    """

    def __init__(self, upstream: str, host: str) -> None:
        self.upstream = urlsplit(upstream)
        self.down = False
        self.every = 0
        """One request in so many fails; 0 for none."""
        self.delay = 0.0
        """Seconds before each answer."""
        self.failed = 0
        self.passed = 0
        self._lock = threading.Lock()
        self._count = 0
        self._server = ThreadingHTTPServer(("0.0.0.0", 0), _handler(self))
        self._server.daemon_threads = True
        self.endpoint = f"http://{host}:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def verdict(self) -> str:
        """What becomes of the next request: cut, fail or pass."""
        with self._lock:
            self._count += 1
            fails = self.every and self._count % self.every == 0
            if self.down or fails:
                self.failed += 1
                return "cut" if self.down else "fail"
            self.passed += 1
            return "pass"


def _handler(store: FaultyStore) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            verdict = store.verdict()
            if verdict == "cut":
                self.close_connection = True
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            time.sleep(store.delay)
            if verdict == "fail":
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self._forward(body)

        def _forward(self, body: bytes) -> None:
            upstream = http.client.HTTPConnection(store.upstream.hostname or "", store.upstream.port, timeout=60)
            try:
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in {"connection", "expect"}:
                        upstream.putheader(name, value)
                upstream.endheaders(body)
                answer = upstream.getresponse()
                data = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in _HOP:
                        self.send_header(name, value)
                length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(data))
                self.send_header("Content-Length", length)
                self.end_headers()
                self.wfile.write(data)
            finally:
                upstream.close()

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any  # noqa: N815 - their names are http.server's

        def log_message(self, *_: object) -> None:
            """Quiet."""

    return Handler
