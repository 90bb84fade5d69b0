"""Credentials that end while a process runs: files, plugins and kubeconfigs that change."""

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import kopf
import pytest
from ippo_operator.cluster.access.kubeconfig import Flags, load
from ippo_operator.cluster.client import Client, RetryPolicy
from ippo_operator.cluster.connection import KubernetesTransport
from ippo_operator.cluster.errors import UnauthorizedError
from ippo_operator.cluster.transport import Request
from ippo_operator.process.watches import LogIn

from .authority import issue
from .conftest import Ask, World

COUNTED = 'echo x >> count; number=$(wc -l < count | tr -d " ")'


def flags(world: World, user: dict[str, Any]) -> Flags:
    return Flags(kubeconfig=str(world.write(world.trusted(), user)))


def later(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_a_plugin_is_asked_once(world: World, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.folder)
    user = world.plugin(f'{{"token": "t$number", "expirationTimestamp": "{later(600)}"}}', before=COUNTED)
    assert ask(flags(world, user), times=3)["authorization"] == "Bearer t1"
    assert (world.folder / "count").read_text() == "x\n"


def test_a_plugin_is_asked_again_when_its_token_ended(world: World, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.folder)
    user = world.plugin(f'{{"token": "t$number", "expirationTimestamp": "{later(-1)}"}}', before=COUNTED)
    assert ask(flags(world, user), times=3)["authorization"] == "Bearer t3"
    assert world.server.shown == ["Bearer t1", "Bearer t2", "Bearer t3"]


def test_a_plugin_is_asked_again_when_its_token_is_refused(
    world: World, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.folder)
    world.server.refused = lambda authorization: authorization == "Bearer t1"
    user = world.plugin('{"token": "t$number"}', "v1beta1", COUNTED)
    assert ask(flags(world, user), times=2)["authorization"] == "Bearer t2"
    assert world.server.shown == ["Bearer t1", "Bearer t2", "Bearer t2"]


def test_what_nobody_can_renew_is_refused_once(world: World, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.folder)
    world.server.refused = lambda _: True
    with pytest.raises(UnauthorizedError):
        ask(flags(world, world.plugin('{"token": "same"}', before=COUNTED)))
    assert world.server.shown == ["Bearer same"]
    assert (world.folder / "count").read_text() == "x\nx\n"


def play(world: World, user: dict[str, Any], change: Any) -> list[dict[str, Any]]:
    """The answers of one transport before and after a change."""

    async def scene() -> list[dict[str, Any]]:
        own = flags(world, user)
        async with KubernetesTransport(load(own), lambda: load(own)) as transport:
            client = Client(transport, retries=RetryPolicy(attempts=2, first_delay=0.0))
            first = await client.send(Request("GET", "/"))
            change()
            return [first, await client.send(Request("GET", "/"))]

    return asyncio.run(asyncio.wait_for(scene(), 30))


def test_a_token_file_is_read_again_at_once_and_may_be_empty_for_a_moment(world: World) -> None:
    token = world.folder / "token"
    token.write_text("old")
    shown = [answer["authorization"] for answer in play(world, {"tokenFile": "token"}, lambda: token.write_text("new"))]
    assert shown == ["Bearer old", "Bearer new"]
    for broken in (lambda: token.write_text(""), token.unlink):
        token.write_text("old")
        assert play(world, {"tokenFile": "token"}, broken)[1]["authorization"] == "Bearer old"


def test_a_kubeconfig_that_changed_is_read_again_when_its_token_is_refused(world: World) -> None:
    def change() -> None:
        world.server.refused = lambda authorization: authorization == "Bearer old"
        flags(world, {"token": "new"})

    assert [a["authorization"] for a in play(world, {"token": "old"}, change)] == ["Bearer old", "Bearer new"]


def test_certificates_that_were_replaced_are_shown(world: World) -> None:
    eve = issue("eve", world.between)

    def place(pair: Any) -> None:
        (world.folder / "crt").write_bytes(pair.certificate)
        (world.folder / "key").write_bytes(pair.key)

    def change() -> None:
        place(eve)
        refusals = iter([True])
        world.server.refused = lambda _: next(refusals, False)

    place(world.ada)
    user = {"client-certificate": "crt", "client-key": "key"}
    assert [answer["user"] for answer in play(world, user, change)] == ["ada", "eve"]


INFO = """
import json, os, sys
info = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
open("info", "w").write(json.dumps({"info": info, "args": sys.argv[1:], "env": os.environ.get("MINE")}))
print(json.dumps({"apiVersion": info["apiVersion"], "kind": "ExecCredential", "status": {"token": "t"}}))
"""


def informed(world: World, **plugin: Any) -> dict[str, Any]:
    (world.folder / "script.py").write_text(INFO)
    api = {"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "IfAvailable"}
    script = {"command": sys.executable, "args": ["script.py", "a b"], "env": [{"name": "MINE", "value": "1"}]}
    return {"exec": api | script | plugin}


def test_what_a_plugin_learns_of_the_cluster(world: World, ask_any: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.folder)
    monkeypatch.setenv("HTTPS_PROXY", "http://unused:1")
    extension = {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x", "deep": [1, None]}}
    cluster = world.trusted(
        tls_server_name="kubernetes.default.svc",
        proxy_url=world.proxy_url,
        disable_compression=True,
        extensions=[{"name": "other", "extension": 1}, extension],
    )
    own = Flags(kubeconfig=str(world.write(cluster, informed(world, provideClusterInfo=True))))
    ask_any(own)
    learnt = json.loads(Path("info").read_text())
    assert (learnt["args"], learnt["env"]) == (["a b"], "1")
    assert learnt["info"] == {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "spec": {
            "interactive": False,
            "cluster": {
                "server": world.here,
                "tls-server-name": "kubernetes.default.svc",
                "certificate-authority-data": cluster["certificate-authority-data"],
                "proxy-url": world.proxy_url,
                "disable-compression": True,
                "config": {"audience": "x", "deep": [1, None]},
            },
        },
    }


def test_a_plugin_learns_nothing_of_the_cluster_unasked(
    world: World, ask_any: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.folder)
    ask_any(flags(world, informed(world, apiVersion="client.authentication.k8s.io/v1beta1")))
    learnt = json.loads(Path("info").read_text())["info"]
    assert learnt == {
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "kind": "ExecCredential",
        "spec": {"interactive": False},
    }


def test_kopf_logs_in_with_the_same_session_and_is_not_let_in_twice_with_what_was_refused(world: World) -> None:
    async def scene() -> None:
        own = flags(world, {"token": "old"})
        log_in = LogIn(lambda: load(own)).log_in
        info = await log_in()
        assert isinstance(info, kopf.AiohttpSession)
        async with info.aiohttp_session as session, session.get(f"{info.server}/") as answer:
            assert (await answer.json())["authorization"] == "Bearer old"
        with pytest.raises(kopf.PermanentError, match="refuses the credentials"):
            await log_in()
        flags(world, {"token": "new"})
        info = await log_in()
        async with info.aiohttp_session as session, session.get(f"{info.server}/") as answer:
            assert (await answer.json())["authorization"] == "Bearer new"

    asyncio.run(asyncio.wait_for(scene(), 30))
