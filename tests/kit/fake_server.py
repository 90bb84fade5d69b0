"""The fake API behind real HTTP on a free port, with logs of pods as a kubelet gives them, and a kubeconfig for it."""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ippo_operator.cluster.transport import Request, Response

from tests.kit.fake_api import FakeApi, Object, answer
from tests.kit.http_server import HttpServer

Log = Callable[[str, dict[str, str]], Iterator[bytes] | Response]
"""Of a pod's name and the query: pieces of its log, or the server's refusal."""


def no_log(pod: str, query: dict[str, str]) -> Response:
    """A container that has not started."""
    return answer(400, "BadRequest", f"container stage in pod {pod} is waiting to start: ContainerCreating")


@dataclass
class Server(HttpServer):
    """An API server for one user. Use as a context manager."""

    api: FakeApi = field(default_factory=FakeApi)
    log: Log = no_log
    installed: bool = True
    token: str = "let-me-in"
    seen: list[tuple[str, str]] = field(default_factory=list)
    """Method and path with query of every request."""
    instead: Callable[[str, str], Response | None] = lambda _method, _path: None
    """Answers in the server's place."""
    agents: set[str] = field(default_factory=set)
    impersonation: set[tuple[str, str]] = field(default_factory=set)
    """Headers."""

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Answers one request."""
        size = int(handler.headers.get("Content-Length") or 0)
        body = json.loads(handler.rfile.read(size)) if size else None
        parts = urlsplit(handler.path)
        query = dict(parse_qsl(parts.query))
        self.seen.append((handler.command, handler.path))
        self.agents.add(handler.headers.get("User-Agent", ""))
        self.impersonation |= {item for item in handler.headers.items() if item[0].startswith("Impersonate-")}
        if handler.headers.get("Authorization") != f"Bearer {self.token}":
            return self._reply(handler, answer(401, "Unauthorized"))
        instead = self.instead(handler.command, handler.path)
        if instead is not None:
            return self._reply(handler, instead)
        if parts.path.startswith("/apis/ippo.dev/") and not self.installed:
            return self._reply(handler, answer(404, "NotFound", "the server could not find the requested resource"))
        if parts.path == "/apis/ippo.dev/v1alpha1":
            return self._reply(handler, Response(200, {}, {"kind": "APIResourceList"}))
        if parts.path.endswith("/log"):
            return self._log(handler, parts.path.split("/")[-2], query)
        kind = handler.headers.get("Content-Type", "")
        return self._reply(handler, self._ask(handler.command, parts.path, query, body, kind))

    def _ask(self, method: str, path: str, query: dict[str, str], body: Any, kind: str) -> Response:
        request = Request(method, path, query, body, content_type=kind)
        if query.pop("dryRun", None):
            copied = FakeApi(objects=json_copy(self.api.objects))
            return asyncio.run(copied.send(request, 5))
        return asyncio.run(self.api.send(request, 5))

    def _reply(self, handler: BaseHTTPRequestHandler, response: Response) -> None:
        data = json.dumps(response.body).encode()
        handler.send_response(response.status)
        for name, value in response.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def _log(self, handler: BaseHTTPRequestHandler, pod: str, query: dict[str, str]) -> None:
        lines = self.log(pod, query)
        if isinstance(lines, Response):
            return self._reply(handler, lines)
        handler.send_response(200)
        handler.send_header("Content-Type", "text/plain")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True
        for piece in lines:
            handler.wfile.write(piece)
            handler.wfile.flush()
        return None

    def kubeconfig(self, folder: Path, namespace: str | None = "team", **user: Any) -> Path:
        """A kubeconfig of this server; `user` instead of the right token."""
        path = folder / "kubeconfig"
        path.write_text(json.dumps(kubeconfig(self.url, user or {"token": self.token}, namespace)))
        return path


def kubeconfig(url: str, user: Object, namespace: str | None = "team", name: str = "here", **cluster: Any) -> Object:
    """One cluster, one user, one context, which is the current one."""
    context = {"cluster": name, "user": name} | ({"namespace": namespace} if namespace else {})
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": url} | cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": context}],
        "current-context": name,
    }


def json_copy(objects: Any) -> Any:
    """Deep, of plain data."""
    return {key: json.loads(json.dumps(value)) for key, value in objects.items()}
