"""The real transport against an HTTP server: credentials that are rotated while the process runs, lost answers."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from ippo_operator.cluster import connection
from ippo_operator.cluster.client import Client, RetryPolicy
from ippo_operator.cluster.connection import KubernetesTransport
from ippo_operator.cluster.errors import ForbiddenError, UnavailableError
from ippo_operator.cluster.resources import JOBS
from kubernetes.aio.config import incluster_config

Scene = Callable[[TestServer, "Door"], Coroutine[Any, Any, None]]


class Door:
    """Lets one token in, and takes note of what it was shown."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.shown: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.shown.append(request.headers.get("Authorization", ""))
        if self.shown[-1].lower() != f"bearer {self.token}":
            body = {"kind": "Status", "code": 401, "reason": "Unauthorized", "message": "Unauthorized"}
            return web.json_response(body, status=401)
        return web.json_response({"metadata": {"name": "j"}})


def play(scene: Scene, token: str = "old") -> None:
    async def whole() -> None:
        door = Door(token)
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", door.answer)
        async with TestServer(application) as server:
            await scene(server, door)

    asyncio.run(asyncio.wait_for(whole(), 30))


def write_kubeconfig(path: Path, server: str, user: dict[str, Any]) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(body))


def test_a_token_file_is_read_again_once_its_token_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token, kubeconfig = tmp_path / "token", tmp_path / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))

    async def scene(server: TestServer, door: Door) -> None:
        token.write_text("old")
        write_kubeconfig(kubeconfig, str(server.make_url("")), {"tokenFile": str(token)})
        configuration = await connection.load()
        async with KubernetesTransport(configuration) as transport:
            client = Client(transport)
            assert await client.get(JOBS, "team", "j")
            token.write_text("new")
            door.token = "new"
            assert await client.create(JOBS, "team", {"metadata": {"name": "j"}})
            assert door.shown == ["Bearer old", "Bearer old", "Bearer new"]
            assert (await connection.credentials(configuration)).token == "new"
            door.token = "nobody's"
            with pytest.raises(ForbiddenError):
                await client.get(JOBS, "team", "j")
            assert door.shown[3:] == ["Bearer new"]

    play(scene)


def test_a_service_accounts_token_is_read_again_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    authority.write_text("unused")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr(connection, "_SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "unused")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")

    async def scene(server: TestServer, door: Door) -> None:
        token.write_text("old")
        as_in_a_pod = incluster_config.InClusterConfigLoader._set_config

        def elsewhere(loader: Any, configuration: Any) -> None:
            as_in_a_pod(loader, configuration)
            configuration.host, configuration.ssl_ca_cert = str(server.make_url("")).rstrip("/"), None

        monkeypatch.setattr(incluster_config.InClusterConfigLoader, "_set_config", elsewhere)
        configuration = await connection.load()
        async with KubernetesTransport(configuration) as transport:
            client = Client(transport)
            assert await client.get(JOBS, "team", "j")
            token.write_text("new")
            door.token = "new"
            for _ in range(3):
                assert await client.get(JOBS, "team", "j")
            assert [shown.split()[1] for shown in door.shown] == ["old", "old", "new", "new", "new"]

    play(scene)


def test_a_token_file_that_is_empty_for_a_moment_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(server: TestServer, _door: Door) -> None:
        kubeconfig = tmp_path / "kubeconfig"
        write_kubeconfig(kubeconfig, str(server.make_url("")), {"token": "old"})
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
        configuration = await connection.load()

        def broken(_: Any) -> None:
            raise incluster_config.ConfigException("Token file exists but empty.")

        configuration.refresh_api_key_hook = broken
        async with KubernetesTransport(configuration) as transport:
            with pytest.raises(UnavailableError, match="empty"):
                await Client(transport, retries=RetryPolicy(attempts=1)).get(JOBS, "team", "j")

    play(scene)
