"""A TLS server that says who asked it how, and an HTTP proxy that leads every name to it."""

import base64
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.kit.http_server import HttpServer, QuietHandler, QuietServer

from .authority import Pair


class _Replying(QuietHandler):
    def reply(self, status: int, body: Any, **headers: str) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@dataclass
class ApiServer(HttpServer):
    """Answers with what it was shown: the certificate's user, authorization, impersonation and the name asked for."""

    folder: Path
    certificate: Pair
    clients: bytes
    """The authorities of clients, PEM."""
    refused: Callable[[str], bool] = lambda _authorization: False
    """Which authorization it does not take any more."""
    names: list[str | None] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)

    def listen(self) -> ThreadingHTTPServer:
        outer = self

        class Handler(_Replying):
            def do_GET(self) -> None:  # noqa: N802
                authorization = self.headers.get("Authorization", "")
                outer.shown.append(authorization)
                if outer.refused(authorization):
                    self.reply(401, {"kind": "Status", "code": 401, "message": "Unauthorized"})
                    return
                if self.path == "/elsewhere":
                    self.reply(302, {}, Location=f"https://localhost:{outer.port}/")
                    return
                certificate = self.connection.getpeercert() or {}  # type: ignore[attr-defined]
                names = dict(pair[0] for pair in certificate.get("subject", ()))
                headers = [(name.lower(), value) for name, value in self.headers.items()]
                impersonation = [item for item in headers if item[0].startswith("impersonate-")]
                answer = {
                    "user": names.get("commonName", ""),
                    "authorization": authorization,
                    "impersonation": sorted(map(list, impersonation)),
                    "path": self.path,
                    "encoding": self.headers.get("Accept-Encoding", ""),
                }
                self.reply(200, answer)

        (self.folder / "server.pem").write_bytes(self.certificate.whole)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem")
        context.load_verify_locations(cadata=self.clients.decode())
        context.verify_mode = ssl.CERT_OPTIONAL
        context.sni_callback = lambda _socket, name, _context: self.names.append(name)
        server = QuietServer(("127.0.0.1", 0), Handler)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        return server


@dataclass
class Proxy(HttpServer):
    """Takes CONNECT for any name, and connects with one server."""

    target: int
    """The server's port on this machine."""
    password: str = ""
    """`user:password` that it wants, if any."""
    certificate: Path | None = None
    """With its key, for a proxy that itself speaks TLS."""
    asked: list[str] = field(default_factory=list)
    """`host:port` of every tunnel that it opened."""

    def listen(self) -> ThreadingHTTPServer:
        outer = self

        class Handler(_Replying):
            def do_CONNECT(self) -> None:  # noqa: N802
                credentials = "Basic " + base64.b64encode(outer.password.encode()).decode()
                if outer.password and self.headers.get("Proxy-Authorization") != credentials:
                    self.reply(407, {}, **{"Proxy-Authenticate": "Basic"})
                    return
                outer.asked.append(self.path)
                self.send_response(200)
                self.end_headers()
                with socket.create_connection(("127.0.0.1", outer.target)) as server:
                    back = threading.Thread(target=_copy, args=(server, self.connection), daemon=True)
                    back.start()
                    _copy(self.connection, server)
                    back.join()
                self.close_connection = True

            def do_GET(self) -> None:  # noqa: N802
                """Of what goes without TLS it says what it sees."""
                self.reply(200, {"path": self.path, "authorization": self.headers.get("Authorization", "")})

        server = QuietServer(("127.0.0.1", 0), Handler)
        if self.certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        return server


def _copy(source: socket.socket, to: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            to.sendall(data)
    with contextlib.suppress(OSError):
        to.shutdown(socket.SHUT_WR)
