"""A small HTTP server that runs beside a test."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class QuietHandler(BaseHTTPRequestHandler):
    """Keeps connections open, and logs nothing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        return


class QuietServer(ThreadingHTTPServer):
    """Says nothing of clients that break off."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        return


class HttpServer:
    """Every request goes to `serve`, in a thread of its own. Use as a context manager."""

    host = "127.0.0.1"
    """Where it listens."""

    def __enter__(self) -> Self:
        self._server = self.listen()
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def listen(self) -> ThreadingHTTPServer:
        """At a free port."""
        outer = self

        class Handler(QuietHandler):
            def _serve(self) -> None:
                outer.serve(self)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

        return QuietServer((self.host, 0), Handler)

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Answers one request."""
        raise NotImplementedError
