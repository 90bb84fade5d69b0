"""The shop plays customers and business over HTTP: what a gateway gets, in which order, whoever else talks."""

import asyncio
import importlib.util
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from ippo_trainer.contract.params import EnvironmentSpec
from ippo_trainer.environments import load
from ippo_trainer.environments.funnel.text import SUGGESTIONS

from tests.kit.doc_pages import ROOT

_SPEC = importlib.util.spec_from_file_location("shop", ROOT / "examples" / "shop" / "shop.py")
assert _SPEC is not None
assert _SPEC.loader is not None
shop: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(shop)
WORDS = [None, *(text for texts in SUGGESTIONS.values() for text in texts)]


class Gateway:
    """Suggests by what was said last, and remembers what it was told."""

    def __init__(self, busy: int = 0, refusal: int = 0) -> None:
        self.told: dict[str, list[Any]] = defaultdict(list)
        self.busy = busy
        """So many requests get 429 first."""
        self.refusal = refusal
        """The status of all others, if not 0."""
        self.open: set[str] = set()
        self.most_open = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/readyz", self._ready)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/conversations/{id}/{rest:.*}", self._report)
        return app

    async def _ready(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    def _refused(self) -> web.Response | None:
        self.busy -= 1
        if self.busy >= 0:
            return web.json_response({"error": {"message": "busy"}}, status=429)
        return web.json_response({"error": {"message": "no"}}, status=self.refusal) if self.refusal else None

    async def _chat(self, request: web.Request) -> web.Response:
        if (refused := self._refused()) is not None:
            return refused
        body = await request.json()
        name = body["metadata"]["conversation_id"]
        self.open.add(name)
        self.most_open = max(self.most_open, len(self.open))
        turn = sum(message["role"] == "assistant" for message in body["messages"])
        text = WORDS[sum(map(ord, body["messages"][-1]["content"])) % len(WORDS)]
        self.told[name].append(("asks", turn, body["messages"][-1]["content"]))
        choice = {"message": {"content": text or ""}, "finish_reason": "stop", "abstained": text is None}
        answer = {"id": f"{name}-{turn}", "conversation_id": name, "turn": turn, "model": "m", "choices": [choice]}
        return web.json_response(answer)

    async def _report(self, request: web.Request) -> web.Response:
        name, rest = request.match_info["id"], request.match_info["rest"]
        self.told[name].append((rest, await request.json()))
        if rest == "close":
            self.open.discard(name)
        return web.json_response({"event_id": "e"})


def play(gateway: Gateway, *more: str, monkeypatch: pytest.MonkeyPatch | None = None) -> int:
    """Runs the shop against the gateway, in this process."""

    async def both() -> int:
        server = TestServer(gateway.app())
        async with server:
            given = shop._parser().parse_args(["--url", str(server.make_url("")), *more])
            code: int = await shop.Shop(given, EnvironmentSpec(name="sr-funnel")).play()
            return code

    return asyncio.run(both())


def test_a_conversation_is_that_of_its_seed_whoever_else_talks() -> None:
    alone, crowded = Gateway(), Gateway()
    assert play(alone, "--conversations", "20", "--concurrency", "1") == 0
    assert play(crowded, "--conversations", "20", "--concurrency", "7") == 0
    assert alone.told == crowded.told
    assert (alone.most_open, crowded.most_open) == (1, 7)
    assert sorted(alone.told) == sorted(f"shop-0-{number}" for number in range(20))


def test_the_gateway_is_told_what_the_environment_did() -> None:
    gateway = Gateway()
    play(gateway, "--conversations", "20")
    kinds = set()
    for name, told in gateway.told.items():
        environment = load(EnvironmentSpec(name="sr-funnel"))
        [opening] = environment.reset([shop.derive_seed(0, "shop", int(name.rpartition("-")[2]))])
        message: str | None = opening.customer_message
        *turns, (last, closed) = told
        for turn, (asks, (path, body)) in enumerate(zip(turns[::2], turns[1::2], strict=True)):
            assert asks == ("asks", turn, message)
            suggestion = WORDS[sum(map(ord, str(message))) % len(WORDS)]
            [step] = environment.step([suggestion])
            assert path == f"turns/{turn}/reaction"
            assert (body["reaction"], body["suggestion_id"]) == (step.reaction, f"{name}-{turn}")
            assert body.get("sent", suggestion) == step.sent_message
            kinds.add(step.reaction)
            message = step.customer_message
        assert (last, closed["outcome"], message) == ("close", step.outcome, None)
    assert kinds == {"accepted", "edited", "rejected"}


def test_it_goes_on_behind_what_began_with_the_same_seed(tmp_path: Path) -> None:
    state, first, second, other = ["--state", str(tmp_path / "state.json")], Gateway(), Gateway(), Gateway()
    play(first, "--conversations", "5", *state)
    play(second, "--conversations", "8", *state)
    play(other, "--conversations", "2", "--seed", "1", *state)
    assert sorted(second.told) == ["shop-0-5", "shop-0-6", "shop-0-7"]
    assert sorted(other.told) == ["shop-1-0", "shop-1-1"]
    assert json.loads((tmp_path / "state.json").read_text()) == {"0": 8, "1": 2}


def test_a_busy_gateway_is_asked_again_and_one_that_refuses_is_not() -> None:
    busy, strict = Gateway(busy=2), Gateway(refusal=401)
    assert play(busy, "--conversations", "2", "--concurrency", "1") == 0
    assert len(busy.told) == 2
    with pytest.raises(shop.GatewayError, match="401: no"):
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
