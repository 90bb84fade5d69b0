"""The shop plays customers and business over HTTP: what a gateway gets, in which order, whoever else talks."""

import asyncio
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer
from ippo_trainer.contract.params import EnvironmentSpec
from ippo_trainer.environments import load
from ippo_trainer.environments.funnel.text import SUGGESTIONS
from ippo_trainer.gateway.client import Tries

from tests.kit.doc_pages import ROOT
from tests.kit.fake_gateway import FakeGateway

_SPEC = importlib.util.spec_from_file_location("shop", ROOT / "examples" / "shop" / "shop.py")
assert _SPEC is not None
assert _SPEC.loader is not None
shop: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(shop)
WORDS = [None, *(text for texts in SUGGESTIONS.values() for text in texts)]


def suggestion_for(message: str) -> str | None:
    return WORDS[sum(map(ord, message)) % len(WORDS)]


def play(gateway: FakeGateway, *more: str, tries: Tries = shop.TRIES) -> int:
    """Runs the shop against the gateway, in this process."""

    async def both() -> int:
        server = TestServer(gateway.app())
        async with server:
            given = shop._parser().parse_args(["--url", str(server.make_url("")), *more])
            code: int = await shop.Shop(given, EnvironmentSpec(name="sr-funnel"), tries).play()
            return code

    return asyncio.run(both())


def test_a_conversation_is_that_of_its_seed_whoever_else_talks() -> None:
    alone, crowded = FakeGateway(suggestion_for), FakeGateway(suggestion_for)
    assert play(alone, "--conversations", "20", "--concurrency", "1") == 0
    assert play(crowded, "--conversations", "20", "--concurrency", "7") == 0
    assert alone.told == crowded.told
    assert (alone.most_open, crowded.most_open) == (1, 7)
    assert sorted(alone.told) == sorted(f"shop-0-{number}" for number in range(20))


def test_the_gateway_is_told_what_the_environment_did() -> None:
    gateway = FakeGateway(suggestion_for)
    play(gateway, "--conversations", "60")
    kinds = set()
    for name, told in gateway.told.items():
        environment = load(EnvironmentSpec(name="sr-funnel"))
        [opening] = environment.reset([shop.derive_seed(0, "shop", int(name.rpartition("-")[2]))])
        message: str | None = opening.customer_message
        *turns, (last, closed) = told
        for turn, (asks, (path, body)) in enumerate(zip(turns[::2], turns[1::2], strict=True)):
            assert asks == ("asks", turn, message)
            suggestion = suggestion_for(str(message))
            [step] = environment.step([suggestion])
            assert path == f"turns/{turn}/reaction"
            assert (body["reaction"], body["suggestion_id"]) == (step.reaction, f"{name}-{turn}")
            assert body.get("sent", suggestion) == step.sent_message
            assert "sent" in body or step.reaction == "accepted", "without it nothing was sent"
            kinds.add(step.reaction)
            message = step.customer_message
        assert (last, closed["outcome"], message) == ("close", step.outcome, None)
    assert kinds == {"accepted", "edited", "rejected"}


def test_it_goes_on_behind_what_began_with_the_same_seed(tmp_path: Path) -> None:
    state = ["--state", str(tmp_path / "state.json")]
    first, second, other = (FakeGateway(suggestion_for) for _ in range(3))
    play(first, "--conversations", "5", *state)
    play(second, "--conversations", "8", *state)
    play(other, "--conversations", "2", "--seed", "1", *state)
    assert sorted(second.told) == ["shop-0-5", "shop-0-6", "shop-0-7"]
    assert sorted(other.told) == ["shop-1-0", "shop-1-1"]
    assert json.loads((tmp_path / "state.json").read_text()) == {"0": 8, "1": 2}


def test_a_busy_gateway_is_asked_again_and_one_that_refuses_is_not() -> None:
    busy, strict = FakeGateway(suggestion_for), FakeGateway(suggestion_for, key="secret")
    busy.refusals = [429, 503]
    assert play(busy, "--conversations", "2", "--concurrency", "1") == 0
    assert len(busy.told) == 2
    with pytest.raises(shop.GatewayError, match="401: refused"):
        play(strict, "--conversations", "100", "--concurrency", "1")


def test_a_gateway_that_is_not_there_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert shop.main(["--url", "http://127.0.0.1:9", "--wait", "0", "--conversations", "1"]) == shop.TRY_AGAIN
    assert capsys.readouterr().err.startswith("http://127.0.0.1:9: not ready within 0 s")


def test_a_log_is_what_the_business_says_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.jsonl"
    assert shop.main(["--log", str(path), "--conversations", "50"]) == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line["conversation_id"] for line in lines}) == 50
    assert {message["role"] for line in lines for message in line["messages"]} == {"user", "assistant"}
    assert any(line["outcome"] for line in lines)
    assert "50 conversations" in capsys.readouterr().out


def test_the_shop_waits_for_a_gateway_that_is_away_for_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    gateway = FakeGateway(suggestion_for)
    gateway.refusals = [503] * 9  # the client gives up after eight
    assert play(gateway, "--conversations", "3", "--concurrency", "1", tries=Tries(most=8, pause=0.0)) == 0
    assert "2 conversations, " in capsys.readouterr().out
    assert sorted(gateway.told) == ["shop-0-1", "shop-0-2"]


def test_the_shop_ends_where_all_conversations_break_off() -> None:
    gateway = FakeGateway(suggestion_for)
    gateway.refusals = [503] * 100
    with pytest.raises(shop.GatewayError, match="503: refused"):
        play(gateway, "--conversations", "100", "--concurrency", "1", tries=Tries(most=1))
    assert len(gateway.refusals) == 100 - 8


@pytest.mark.parametrize(
    "first", [b"", b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"], ids=["silent", "strange"]
)
def test_a_connection_that_led_elsewhere_is_not_kept(monkeypatch: pytest.MonkeyPatch, first: bytes) -> None:
    monkeypatch.setattr(shop, "TRY_SECONDS", 0.1)
    connections = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        said = first if len(connections) == 1 else b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        while await reader.readline():
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said)

    async def wait() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1")
        host, port = server.sockets[0].getsockname()
        await shop.ready(f"http://{host}:{port}", 30)
        for writer in connections:
            writer.close()
        server.close()

    asyncio.run(wait())
    assert len(connections) == 2
