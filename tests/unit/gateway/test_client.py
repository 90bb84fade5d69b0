"""The Python client, against a gateway, and against servers that fail."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from ippo_trainer.gateway.client import GatewayClient, GatewayError, GatewaySuggestion, Reaction, Tries, Whose
from ippo_trainer.gateway.keys import read_keys
from ippo_trainer.live.journal import JournalLimits

from tests.kit.chat import assistant, run, user
from tests.kit.gateways import ACTIVE, gateway

HELLO = [user("hello")]
QUICK = Tries(pause=0.001, longest_pause=0.001)
KEY = "key-key-key-key-key"


def test_a_conversation_from_greeting_to_outcome(tmp_path):
    async def check():
        async with gateway(tmp_path, read_keys(f"app chat,events,erase {KEY}\n")) as bench:
            async with GatewayClient(str(bench.client.make_url("/")), KEY) as client:
                whose = Whose("c/1 ü", "u7", "vip")
                first = await client.chat(HELLO, whose, {"max_tokens": 5})
                assert first == GatewaySuggestion(first.id, "c/1 ü", 0, "Ten for you.", "stop", ACTIVE, True)
                await client.react("c/1 ü", 0, Reaction("edited", "Nine.", first.id, at=1764230400.0))
                history = [*HELLO, assistant("Nine."), user("ok")]
                parts = [each async for each in client.stream(history, whose)]
                assert parts[:-1] == ["Ten ", "for ", "you."]
                assert (parts[-1].turn, parts[-1].text, parts[-1].finish_reason) == (1, "Ten for you.", "stop")
                await client.react("c/1 ü", 1, Reaction("accepted", suggestion_id=parts[-1].id))
                await client.outcome("c/1 ü", True)
                await client.complain("c/1 ü")
                await client.customer_outcome("u7", False)
                await client.customer_complaint("u7")
                await client.close_conversation("c/1 ü", outcome=True)
                await client.erase("c/1 ü")
            events = bench.events()
            kinds = "suggestion reaction suggestion reaction outcome complaint outcome complaint close erased"
            assert [event["kind"] for event in events] == kinds.split()
            assert {event["conversation_id"] for event in events} == {"c/1 ü", ""}
            assert (events[1]["sent"], events[1]["at"]) == ("Nine.", 1764230400.0)
            assert bench.active.asked[0]["max_tokens"] == 5

    run(check())


@pytest.mark.parametrize("stream", [False, True])
def test_an_abstention_has_no_text(tmp_path, stream):
    async def check():
        async with gateway(tmp_path) as bench, GatewayClient(str(bench.client.make_url("/"))) as client:
            bench.active.behaviour.abstains = True
            if stream:
                [answer] = [each async for each in client.stream(HELLO)]
            else:
                answer = await client.chat(HELLO)
            assert answer.text is None

    run(check())


@pytest.mark.parametrize("stream", [False, True])
def test_what_could_not_be_logged_is_known(tmp_path, stream):
    async def check():
        async with (
            gateway(tmp_path, journal_limits=JournalLimits(waiting_bytes=10)) as bench,
            GatewayClient(str(bench.client.make_url("/")), tries=Tries(1)) as client,
        ):
            answer = [each async for each in client.stream(HELLO)][-1] if stream else await client.chat(HELLO)
            assert not answer.logged
            with pytest.raises(GatewayError) as caught:
                await client.complain("c1")
            assert caught.value.status == 503

    run(check())


def server_of(answers):
    """A server that gives these answers, one after the other, and what it was asked."""
    asked = []

    async def handle(request):
        asked.append((request.path, request.headers.get("Idempotency-Key"), await request.json()))
        answer = answers.pop(0)
        if answer is None:
            request.transport.abort()
            return web.Response()
        return answer() if callable(answer) else web.json_response({"event_id": "e"}, status=answer)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    return TestServer(app), asked


def test_a_report_is_tried_again_under_one_key():
    async def check():
        server, asked = server_of([503, 429, None, 500, 200])
        async with server, GatewayClient(str(server.make_url("")), tries=QUICK) as client:
            assert await client.outcome("c1", True) == "e"
        assert len(asked) == 5
        assert len({key for _, key, _ in asked}) == 1
        assert asked[0][1]

    run(check())


def test_two_reports_have_two_keys_unless_the_caller_says_so():
    async def check():
        server, asked = server_of([200, 200, 200, 200])
        async with server, GatewayClient(str(server.make_url("")), tries=QUICK) as client:
            for key in ("", "", "mine", "mine"):
                await client.complain("c1", key=key)
        keys = [key for _, key, _ in asked]
        assert len(set(keys)) == 3
        assert keys[2:] == ["mine", "mine"]

    run(check())


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413])
def test_what_is_refused_is_not_tried_again(status):
    async def check():
        server, asked = server_of([lambda: web.json_response({"error": {"message": "no"}}, status=status)])
        async with server, GatewayClient(str(server.make_url("")), tries=QUICK) as client:
            with pytest.raises(GatewayError) as caught:
                await client.complain("c1")
        assert (caught.value.status, caught.value.message) == (status, "no")
        assert len(asked) == 1

    run(check())


@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.Response(text="<html>", content_type="text/html"),
        lambda: web.Response(text="{", content_type="application/json"),
        lambda: web.json_response([]),
        lambda: web.json_response({}),
    ],
)
def test_what_is_no_gateway_is_an_error_of_its_own(answer):
    async def check():
        server, _ = server_of([answer] * 2)
        async with server, GatewayClient(str(server.make_url("")), tries=QUICK) as client:
            for ask in (client.complain("c1"), client.chat(HELLO)):
                with pytest.raises(GatewayError, match="no gateway"):
                    await ask

    run(check())


def test_where_nothing_answers_it_says_so_after_all_tries():
    async def check():
        for asking in ("chat", "complain"):
            async with GatewayClient("http://127.0.0.1:1", tries=QUICK) as client:
                with pytest.raises(GatewayError, match="nothing answers") as caught:
                    await (client.chat(HELLO) if asking == "chat" else client.complain("c1"))
                assert caught.value.status == 0

    run(check())


def test_a_stream_that_breaks_off_is_an_error(tmp_path):
    async def check():
        async with gateway(tmp_path) as bench, GatewayClient(str(bench.client.make_url("/")), tries=QUICK) as client:
            bench.active.behaviour.breaks_after = 2
            with pytest.raises(GatewayError, match="broke off"):
                [each async for each in client.stream(HELLO)]
            bench.active.behaviour.breaks_after, bench.active.behaviour.status = None, 503
            with pytest.raises(GatewayError, match="no policy server"):
                [each async for each in client.stream(HELLO)]

    run(check())


def test_a_server_that_hangs_is_given_up():
    async def check():
        gate = asyncio.Event()

        async def handle(_):
            await gate.wait()
            return web.Response()

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        async with (
            TestServer(app) as server,
            GatewayClient(str(server.make_url("")), tries=Tries(2, seconds=0.05, pause=0.001)) as client,
        ):
            with pytest.raises(GatewayError, match="nothing answers"):
                await client.complain("c1")
            gate.set()

    run(check())
