"""A TLS API server behind names that no resolver knows, a proxy that knows them, and who asks: `ippo`, the operator."""

import asyncio
import base64
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ippo_operator.cluster.access.kubeconfig import Flags, load
from ippo_operator.cluster.client import Client, RetryPolicy
from ippo_operator.cluster.connection import KubernetesTransport
from ippo_operator.cluster.remote.calls import Calls
from ippo_operator.cluster.transport import Request

from .authority import Pair, issue
from .peers import ApiServer, Proxy

NAME = "api.example.internal"
INNER = "kubernetes.default.svc"
Ask = Callable[..., Any]


def encoded(data: bytes) -> str:
    """As in a kubeconfig's `-data`."""
    return base64.b64encode(data).decode()


@dataclass
class World:
    """What the cases use."""

    folder: Path
    root: Pair
    between: Pair
    """Signed by the root; signs the server's certificate and the users'."""
    ada: Pair
    server: ApiServer
    proxy: Proxy

    @property
    def here(self) -> str:
        """The server's URL without a proxy."""
        return f"https://127.0.0.1:{self.server.port}"

    @property
    def proxy_url(self) -> str:
        user = f"{self.proxy.password}@" if self.proxy.password else ""
        return f"http://{user}127.0.0.1:{self.proxy.port}"

    def trusted(self, server: str = "", **more: Any) -> dict[str, Any]:
        """A cluster whose authority is known."""
        trust = {"certificate-authority-data": encoded(self.root.certificate)}
        return {"server": server or self.here} | trust | {key.replace("_", "-"): value for key, value in more.items()}

    def certificate(self) -> dict[str, Any]:
        """Ada, in the kubeconfig."""
        return {
            "client-certificate-data": encoded(self.ada.certificate),
            "client-key-data": encoded(self.ada.key),
        }

    def script(self, text: str, name: str = "plugin") -> Path:
        """A program."""
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o700)
        return path

    def plugin(self, status: str, version: str = "v1", before: str = "") -> dict[str, Any]:
        """A user whose plugin prints this status, which a shell may fill in."""
        api = f"client.authentication.k8s.io/{version}"
        head = f'{{"apiVersion": "{api}", "kind": "ExecCredential", "status": '
        self.script(f"{before}\ncat <<END\n{head}{status}}}\nEND")
        return {"exec": {"apiVersion": api, "command": "./plugin", "interactiveMode": "Never"}}

    def write(self, cluster: Any, user: Any, name: str = "config", context: Any = None, **whole: Any) -> Path:
        """A kubeconfig of one context."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "x",
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"} | (context or {})}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
        } | whole
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
        return path


@pytest.fixture(scope="session")
def pairs() -> dict[str, Pair]:
    root = issue("root", authority=True)
    between = issue("between", root, authority=True)
    return {
        "root": root,
        "between": between,
        "server": issue("server", between, (NAME, INNER, "127.0.0.1")),
        "ada": issue("ada", between),
    }


@pytest.fixture
def world(tmp_path: Path, pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Everything up, and no proxy in the environment."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    chain = Pair(pairs["server"].certificate + pairs["between"].certificate, pairs["server"].key)
    clients = pairs["root"].certificate + pairs["between"].certificate
    with ApiServer(tmp_path, chain, clients) as server, Proxy(server.port) as proxy:
        yield World(tmp_path, pairs["root"], pairs["between"], pairs["ada"], server, proxy)


def by_command(flags: Flags, path: str = "/", times: int = 1) -> Any:
    with Calls(flags, sleep=lambda _: None) as calls:
        return [calls.request(Request("GET", path)) for _ in range(times)][-1]


def by_operator(flags: Flags, path: str = "/", times: int = 1) -> Any:
    async def scene() -> Any:
        async with KubernetesTransport(load(flags), lambda: load(flags)) as transport:
            client = Client(transport, retries=RetryPolicy(attempts=2, first_delay=0.0))
            return [await client.send(Request("GET", path)) for _ in range(times)][-1]

    return asyncio.run(asyncio.wait_for(scene(), 30))


def by_kubectl(flags: Flags, path: str = "/", times: int = 1) -> Any:
    """The one whom the others follow; skipped where there is none."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("there is no kubectl here")
    command = [program, "--kubeconfig", str(flags.kubeconfig), "get", "--raw", path]
    answers = [subprocess.run(command, capture_output=True, text=True, timeout=60) for _ in range(times)]
    assert answers[-1].returncode == 0, answers[-1].stderr
    return json.loads(answers[-1].stdout)


@pytest.fixture(params=[by_command, by_operator, by_kubectl], ids=["ippo", "operator", "kubectl"])
def ask_any(request: pytest.FixtureRequest) -> Ask:
    """As `ask`, and kubectl beside them."""
    asker: Ask = request.param
    return asker


@pytest.fixture(params=[by_command, by_operator], ids=["ippo", "operator"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """What the server answers to whom asks with these flags."""
    asker: Ask = request.param
    return asker
