"""Pages in browsers: none by default, those that are named, and never with a browser's own login."""

import re
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
from aiohttp.test_utils import TestClient, TestServer
from ippo_trainer.contract.origins import ORIGIN
from ippo_trainer.serve.app import ChatServer
from ippo_trainer.serve.settings import ServedModel

from tests.kit.chat import DIGEST, run, user

SHOP = "https://shop.example"
ASK = {"messages": [user("hi")], "model": "demo", "seed": 1}
WANTS = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-stainless-os"}
ALLOW = "Access-Control-Allow-Origin"


@pytest.fixture
def shop(serving):
    @asynccontextmanager
    async def go(*origins):
        async with serving() as (_, chat_server):
            made = ChatServer(DIGEST, "demo", origins)
            made.open(ServedModel(chat_server.context.renderer, chat_server.context.engine))
            async with TestClient(TestServer(made.application())) as client:
                yield client

    return go


def about(response):
    return {name: value for name, value in response.headers.items() if name.startswith("Access-Control-")}


def test_it_is_off_by_default(shop):
    async def check():
        async with shop() as client:
            preflight = await client.options("/v1/chat/completions", headers={"Origin": SHOP} | WANTS)
            answer = await client.post("/v1/chat/completions", json=ASK, headers={"Origin": SHOP})
            assert (preflight.status, answer.status) == (405, 200)
            assert about(preflight) == about(answer) == {}

    run(check())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("origins", "told"), [((SHOP, "http://localhost:3000"), SHOP), (("*",), "*")])
def test_a_page_that_may_ask_is_answered(shop, origins, told, stream):
    async def check():
        async with shop(*origins) as client:
            preflight = await client.options("/v1/chat/completions", headers={"Origin": SHOP} | WANTS)
            assert preflight.status == 204
            assert preflight.headers[ALLOW] == told
            assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
            assert preflight.headers["Access-Control-Allow-Headers"] == "authorization,x-stainless-os"
            answer = await client.post("/v1/chat/completions", json=ASK | {"stream": stream}, headers={"Origin": SHOP})
            assert (answer.status, answer.headers[ALLOW]) == (200, told)
            wrong = await client.post("/v1/chat/completions", json={}, headers={"Origin": SHOP})
            assert (wrong.status, wrong.headers[ALLOW]) == (400, told), "a page can read why it is refused"
            for response in (preflight, answer, wrong):
                assert "Access-Control-Allow-Credentials" not in response.headers
                assert told == "*" or "Origin" in response.headers["Vary"]

    run(check())


@pytest.mark.parametrize("origin", ["https://evil.example", "https://shop.example.evil", "http://shop.example", "null"])
def test_another_page_is_not(shop, origin):
    async def check():
        async with shop(SHOP) as client:
            preflight = await client.options("/v1/chat/completions", headers={"Origin": origin} | WANTS)
            answer = await client.post("/v1/chat/completions", json=ASK, headers={"Origin": origin})
            assert preflight.status == 403
            assert ALLOW not in preflight.headers
            assert ALLOW not in answer.headers
            assert "Origin" in answer.headers["Vary"]

    run(check())


def test_no_header_is_made_up_from_what_a_page_asks_for(shop):
    async def check():
        async with shop("*") as client:
            odd = WANTS | {"Access-Control-Request-Headers": "x, y z;q", "Origin": SHOP}
            preflight = await client.options("/v1/models", headers=odd)
            assert preflight.status == 204
            assert "Access-Control-Allow-Headers" not in preflight.headers

    run(check())


@pytest.mark.parametrize("text", ["https://a.example", "http://localhost:3000", "http://[::1]:80", "*"])
def test_origins(text):
    assert re.fullmatch(ORIGIN, text)


@pytest.mark.parametrize(
    "text", ["a.example", "https://a.example/", "https://*.a.example", "null", "", "ftp://a", "* "]
)
def test_no_origins(text):
    assert not re.fullmatch(ORIGIN, text)


def test_a_wrong_origin_is_a_wrong_argument():
    command = [sys.executable, "-m", "ippo_trainer.serve.cli", "--policy", "x", "--port", "0", "--engine", "VLLM"]
    ended = subprocess.run([*command, "--name", "n", "--allow-origin", "shop"], capture_output=True, text=True)
    assert ended.returncode == 64
    assert "shop is no origin" in ended.stderr
