"""Malformed and hostile requests: each gets 4xx with a clear body, and nothing is logged under another's id."""

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ippo_trainer.gateway.admission import GatewayLimits
from ippo_trainer.gateway.keys import read_keys
from ippo_trainer.gateway.openapi import document
from yarl import URL

from tests.kit.chat import ask, run, user
from tests.kit.gateways import gateway
from tests.kit.stub_policy import CHAT

HELLO = {"messages": [user("hello")]}
MINE, THEIRS = "mine-mine-mine-mine", "them-them-them-them"
KEYS = f"mine chat,events {MINE} mine-\nthem chat,events {THEIRS} them-\n"
REACTION, OUTCOME = "/v1/conversations/mine-1/turns/0/reaction", "/v1/conversations/mine-1/outcome"
CLOSE, OUTCOMES = "/v1/conversations/mine-1/close", "/v1/outcomes"
LONE = '"\\ud800"'


def deep(levels: int, opening: str = "[", closing: str = "]") -> str:
    return opening * levels + closing * levels


def named(value: Any) -> dict[str, Any]:
    return HELLO | {"metadata": {"conversation_id": value}}


def chat(**fields: Any) -> dict[str, Any]:
    return HELLO | fields


JSON_CASES: dict[str, tuple[str, Any, int]] = {
    # Chat: schema
    "no messages": (CHAT, {}, 400),
    "messages is a text": (CHAT, {"messages": "hello"}, 400),
    "messages is null": (CHAT, {"messages": None}, 400),
    "messages is empty": (CHAT, {"messages": []}, 400),
    "a message is a text": (CHAT, {"messages": ["hello"]}, 400),
    "a message is null": (CHAT, {"messages": [None]}, 400),
    "too many messages": (CHAT, {"messages": [{}] * 10_001}, 400),
    "stream is a text": (CHAT, chat(stream="yes"), 400),
    "stream is a number": (CHAT, chat(stream=1), 400),
    "n is zero": (CHAT, chat(n=0), 400),
    "n is large": (CHAT, chat(n=10**9), 400),
    "n is negative": (CHAT, chat(n=-1), 400),
    "n is a fraction": (CHAT, chat(n=1.5), 400),
    "n is true": (CHAT, chat(n=True), 400),
    "model is a number": (CHAT, chat(model=7), 400),
    "another model": (CHAT, chat(model="gpt-4o"), 404),
    "a model that is long": (CHAT, chat(model="x" * 100_000), 404),
    "metadata is a list": (CHAT, chat(metadata=[]), 400),
    "metadata is a text": (CHAT, chat(metadata="mine-1"), 400),
    "user is a number with a point": (CHAT, chat(user=1.5), 400),
    "user is a list": (CHAT, chat(user=[]), 400),
    "user is long": (CHAT, chat(user="mine-" + "x" * 300), 400),
    "a private field: records": (CHAT, chat(return_record=True), 400),
    "a private field: no records": (CHAT, chat(return_record=False), 400),
    "a private field: instructions": (CHAT, chat(persona_instructions="Obey."), 400),
    # Chat: names
    "an id that is empty": (CHAT, named(""), 400),
    "an id of blanks": (CHAT, named("   "), 400),
    "an id that is long": (CHAT, named("mine-" + "x" * 256), 400),
    "an id with a line break": (CHAT, named("mine-\nx"), 400),
    "an id with a control": (CHAT, named("mine-\x1b[31m"), 400),
    "an id with a null": (CHAT, named("mine-\x00"), 400),
    "an id that turns writing": (CHAT, named("mine-\u202egnp"), 400),
    "an id with an invisible character": (CHAT, named("mine-\u200b1"), 400),
    "an id that is an object": (CHAT, named({"$ne": ""}), 400),
    "an id that is a list": (CHAT, named(["mine-1"]), 400),
    "an id that is true": (CHAT, named(True), 400),
    "an id that is a fraction": (CHAT, named(1.5), 400),
    "an id that is a folder": (CHAT, named(".."), 400),
    "an id of another": (CHAT, named("them-1"), 403),
    "an id of nobody": (CHAT, named("c1"), 403),
    "an id that nearly is one's own": (CHAT, named("Mine-1"), 403),
    "a customer of another": (CHAT, chat(metadata={"customer_id": "them-u"}), 403),
    "a user of another": (CHAT, chat(user="them-u"), 403),
    "a safety_identifier of another": (CHAT, chat(safety_identifier="them-u"), 403),
    "a group that is an object": (CHAT, chat(metadata={"group": {}}), 400),
    # Reactions
    "no reaction": (REACTION, {}, 400),
    "an unknown reaction": (REACTION, {"reaction": "liked"}, 400),
    "a reaction in capitals": (REACTION, {"reaction": "Accepted"}, 400),
    "a reaction that is null": (REACTION, {"reaction": None}, 400),
    "a reaction that is a list": (REACTION, {"reaction": ["accepted"]}, 400),
    "edited without a text": (REACTION, {"reaction": "edited"}, 400),
    "edited with an empty text": (REACTION, {"reaction": "edited", "sent": " "}, 400),
    "accepted with a text": (REACTION, {"reaction": "accepted", "sent": "x"}, 400),
    "sent is a number": (REACTION, {"reaction": "edited", "sent": 5}, 400),
    "sent is long": (REACTION, {"reaction": "edited", "sent": "x" * 40_000}, 400),
    "an unknown field": (REACTION, {"reaction": "accepted", "score": 5}, 400),
    "another conversation in the body": (REACTION, {"reaction": "accepted", "conversation_id": "them-1"}, 400),
    "a suggestion_id that is none": (REACTION, {"reaction": "accepted", "suggestion_id": "a\nb"}, 400),
    "a suggestion_id that is long": (REACTION, {"reaction": "accepted", "suggestion_id": "x" * 300}, 400),
    "a turn that is a word": ("/v1/conversations/mine-1/turns/first/reaction", {"reaction": "accepted"}, 400),
    "a turn below zero": ("/v1/conversations/mine-1/turns/-1/reaction", {"reaction": "accepted"}, 400),
    "a turn that is large": ("/v1/conversations/mine-1/turns/99999999999/reaction", {"reaction": "accepted"}, 400),
    "a turn with a point": ("/v1/conversations/mine-1/turns/1.0/reaction", {"reaction": "accepted"}, 400),
    "a turn in other digits": ("/v1/conversations/mine-1/turns/%D9%A1/reaction", {"reaction": "accepted"}, 400),
    "a reaction in another's conversation": (
        "/v1/conversations/them-1/turns/0/reaction",
        {"reaction": "accepted"},
        403,
    ),
    # Outcomes and ends
    "no outcome": (OUTCOME, {}, 400),
    "an outcome that is null": (OUTCOME, {"outcome": None}, 400),
    "an outcome that is a word": (OUTCOME, {"outcome": "true"}, 400),
    "an outcome that is a number": (OUTCOME, {"outcome": 1}, 400),
    "an outcome of another": ("/v1/conversations/them-1/outcome", {"outcome": True}, 403),
    "a complaint of another": ("/v1/conversations/them-1/complaint", {}, 403),
    "an end of another": ("/v1/conversations/them-1/close", {}, 403),
    "an end with a word": (CLOSE, {"outcome": "bought"}, 400),
    "a time that is a word": (CLOSE, {"time": "yesterday"}, 400),
    "a time that is true": (CLOSE, {"time": True}, 400),
    "a time below zero": (CLOSE, {"time": -1}, 400),
    "a time that is a list": (CLOSE, {"time": [1]}, 400),
    "a time in the future": (CLOSE, {"time": "2999-01-01T00:00:00Z"}, 400),
    "a time beyond all": (CLOSE, {"time": 1e300}, 400),
    "a time in year zero": (CLOSE, {"time": "0000-01-01"}, 400),
    "a customer that is missing": (OUTCOMES, {"outcome": True}, 400),
    "a customer that is empty": (OUTCOMES, {"outcome": True, "customer_id": ""}, 400),
    "a customer that is an object": (OUTCOMES, {"outcome": True, "customer_id": {"$gt": ""}}, 400),
    "a customer that is another's": (OUTCOMES, {"outcome": True, "customer_id": "them-u"}, 403),
    "a complaint of another's customer": ("/v1/complaints", {"customer_id": "them-u"}, 403),
    "a customer beside a conversation": (OUTCOME, {"outcome": True, "customer_id": "mine-u"}, 400),
    # Paths
    "no such path": ("/v1/completions", HELLO, 404),
    "a path above": ("/v1/conversations/%2E%2E/close", {}, 400),
    "an id of 300 characters": (f"/v1/conversations/mine-{'x' * 300}/close", {}, 400),
    "an id with a control in the path": ("/v1/conversations/mine-%0Ax/close", {}, 400),
    "an id with a null in the path": ("/v1/conversations/mine-%00/close", {}, 400),
    "an id with half a surrogate pair": ("/v1/conversations/mine-%ED%A0%80%00/close", {}, 400),
    "an id of blanks in the path": ("/v1/conversations/%20%20/close", {}, 400),
    "another's id behind slashes": ("/v1/conversations/..%2Fthem-1/close", {}, 403),
    "the operator's report": ("/v1/live", {}, 404),
    "the metrics": ("/metrics", {}, 404),
}
RAW_CASES: dict[str, tuple[str, bytes, dict[str, str], int]] = {
    "nothing": (CHAT, b"", {}, 400),
    "no JSON": (CHAT, b"hello", {}, 400),
    "half of it": (CHAT, b'{"messages": [', {}, 400),
    "two of them": (CHAT, json.dumps(HELLO).encode() * 2, {}, 400),
    "a list": (CHAT, b"[]", {}, 400),
    "a number": (CHAT, b"7", {}, 400),
    "null": (CHAT, b"null", {}, 400),
    "no UTF-8": (CHAT, b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}', {}, 400),
    "half a surrogate pair": (CHAT, f'{{"messages": [{{"role": "user", "content": {LONE}}}]}}'.encode(), {}, 400),
    "half a surrogate pair in an id": (CHAT, f'{{"messages": [{{}}], "user": {LONE}}}'.encode(), {}, 400),
    "half a surrogate pair in a report": (
        REACTION,
        f'{{"reaction": "edited", "sent": {LONE}}}'.encode(),
        {},
        400,
    ),
    "a field that is half a surrogate pair": (CLOSE, f"{{{LONE}: 1}}".encode(), {}, 400),
    "NaN": (CHAT, b'{"messages": [{"role": "user", "content": "a", "x": NaN}]}', {}, 400),
    "infinity": (CHAT, b'{"messages": [{}], "temperature": Infinity}', {}, 400),
    "a number beyond all": (CHAT, b'{"messages": [{}], "temperature": 1e999}', {}, 400),
    "a number of 10,000 digits": (CHAT, b'{"messages": [{}], "seed": ' + b"9" * 10_000 + b"}", {}, 400),
    "lists in lists": (CHAT, f'{{"messages": [{deep(100)}]}}'.encode(), {}, 400),
    "lists in lists, 100,000 deep": (CHAT, f'{{"messages": {deep(100_000)}}}'.encode(), {}, 400),
    "objects in objects": (CHAT, b'{"messages":[{"a":' + b'{"a":' * 50 + b"1" + b"}" * 52 + b"]}", {}, 400),
    "objects in objects, in a report": (CLOSE, b'{"time":' + b'{"a":' * 50_0 + b"1" + b"}" * 501, {}, 400),
    "more than a body may have": (CHAT, b'{"messages": "' + b"x" * (1 << 20) + b'"}', {}, 413),
    "more than a report may have": (CLOSE, b'{"time": "' + b"x" * (64 << 10) + b'"}', {}, 413),
    "a form": (CLOSE, b"outcome=true", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
    "plain text, as a page of any origin may send": (CLOSE, b"{}", {"Content-Type": "text/plain"}, 415),
    "no type": (CLOSE, b"{}", {"Content-Type": ""}, 415),
    "packed, and it is not": (CLOSE, b"{}", {"Content-Encoding": "gzip"}, 400),
    "packed, and large": (CHAT, gzip.compress(b"x" * (64 << 20)), {"Content-Encoding": "gzip"}, 413),
    "a key that is empty": (CLOSE, b"{}", {"Idempotency-Key": ""}, 400),
    "a key that is long": (CLOSE, b"{}", {"Idempotency-Key": "k" * 300}, 400),
    "a key with an invisible character": (CLOSE, b"{}", {"Idempotency-Key": "k\u200b".encode().decode("latin-1")}, 400),
    "a header that is another's id": (CHAT, json.dumps(HELLO).encode(), {"X-Conversation-Id": "them-1"}, 403),
    "a header against the body": (CHAT, json.dumps(named("mine-2")).encode(), {"X-Conversation-Id": "mine-1"}, 400),
    "a header that is long": (CHAT, json.dumps(HELLO).encode(), {"X-Conversation-Id": "x" * 300}, 400),
}


async def refused(bench: Any, path: str, body: bytes, headers: dict[str, str], status: int) -> None:
    """Sends a request as it is, and holds the answer to what every refusal is."""
    said = {"Content-Type": "application/json", "Authorization": f"Bearer {MINE}"} | headers
    url = URL(f"http://127.0.0.1:{bench.client.port}{path}", encoded=True)
    async with bench.client.session.post(url, data=body, headers=said) as response:
        text = await response.text()
    assert response.status == status, text
    error = json.loads(text)["error"]
    assert error["message"]
    assert len(text) < 2000
    assert "Traceback" not in text


def test_there_are_a_hundred_of_them():
    assert len(JSON_CASES) + len(RAW_CASES) >= 100


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: Any) -> Callable[[Callable[[Any], Awaitable[None]]], None]:
    """Runs a check against a gateway with keys, and sees that nothing was asked or logged."""

    def go(check: Callable[[Any], Awaitable[None]]) -> None:
        async def within() -> None:
            async with gateway(tmp_path_factory.mktemp("hostile"), read_keys(KEYS)) as bench:
                await check(bench)
                assert not bench.events()
                assert not bench.active.asked

        run(within())

    return go


@pytest.mark.parametrize("name", JSON_CASES)
def test_a_request_that_says_too_much_or_too_little(guarded, name):
    path, body, status = JSON_CASES[name]
    guarded(lambda bench: refused(bench, path, json.dumps(body).encode(), {}, status))


@pytest.mark.parametrize("name", RAW_CASES)
def test_a_request_that_is_none(guarded, name):
    path, body, headers, status = RAW_CASES[name]
    guarded(lambda bench: refused(bench, path, body, headers, status))


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods(guarded, method):
    async def check(bench):
        async with bench.client.request(method, CLOSE, headers={"Authorization": f"Bearer {MINE}"}) as response:
            assert response.status == 405
            assert (await response.json())["error"]["message"]

    guarded(check)


def test_nobody_erases_without_the_scope_or_anothers(guarded):
    async def check(bench):
        for path, status in (("/v1/conversations/mine-1", 403), ("/v1/conversations/them-1", 403)):
            async with bench.client.delete(path, headers={"Authorization": f"Bearer {MINE}"}) as response:
                assert response.status == status
        async with bench.client.delete("/v1/conversations/them-1") as response:
            assert response.status == 401

    guarded(check)


def test_a_key_that_is_replayed_with_another_body_changes_nothing(tmp_path):
    async def check():
        async with gateway(tmp_path, read_keys(KEYS)) as bench:
            for key, conversation in ((MINE, "mine-1"), (THEIRS, "them-1")):
                headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "k"}
                path = f"/v1/conversations/{conversation}/outcome"
                for body, status in (({"outcome": True}, 200), ({"outcome": False}, 409), ({"outcome": True}, 200)):
                    async with bench.client.post(path, json=body, headers=headers) as response:
                        assert response.status == status
            assert [(event["conversation_id"], event["outcome"]) for event in bench.events()] == [
                ("mine-1", True),
                ("them-1", True),
            ]

    run(check())


# Slow clients


def head(path: str, size: int) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n".encode()
    )


async def connected(bench: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", bench.client.port)


@pytest.mark.parametrize("path", [CHAT, CLOSE])
def test_a_body_that_does_not_come_is_not_waited_for(tmp_path, path):
    async def check():
        async with gateway(tmp_path, limits=GatewayLimits(requests=1, body_seconds=0.05)) as bench:
            reader, writer = await connected(bench)
            writer.write(head(path, 900) + b"{")
            assert b" 408 " in await asyncio.wait_for(reader.readline(), 30)
            writer.close()
            await ask(bench.client, HELLO["messages"])  # its place is free again
            assert len(bench.events()) == 1

    run(check())


def test_headers_that_do_not_come_are_not_waited_for(tmp_path):
    async def check():
        async with gateway(tmp_path, limits=GatewayLimits(idle_seconds=0.1)) as bench:
            reader, writer = await connected(bench)
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-A")
            assert await asyncio.wait_for(reader.read(), 30) in (b"",)
            writer.close()

    run(check())


def test_a_client_that_takes_nothing_is_let_go(tmp_path):
    async def check():
        async with gateway(tmp_path, limits=GatewayLimits(write_seconds=0.05)) as bench:
            bench.active.behaviour.words = ("x" * 60_000,) * 400
            reader, writer = await connected(bench)
            writer.transport.pause_reading()
            body = json.dumps(HELLO | {"stream": True}).encode()
            writer.write(head(CHAT, len(body)) + body)
            while not bench.active.asked:
                await asyncio.sleep(0)
            while bench.server.ending.in_flight:
                await asyncio.sleep(0.001)
            assert not bench.events()
            writer.transport.abort()
            del reader

    run(check())


def test_bodies_that_are_announced_take_their_room(tmp_path):
    async def check():
        limits = GatewayLimits(body_bytes=1000, all_bytes=2000, body_seconds=30.0)
        async with gateway(tmp_path, limits=limits) as bench:
            writers = []
            for _ in range(2):
                _, writer = await connected(bench)
                writer.write(head(CHAT, 1000))
                writers.append(writer)
            while bench.server.ending.in_flight < 2:
                await asyncio.sleep(0)
            error = await ask(bench.client, HELLO["messages"], 429)
            assert "memory" in error["error"]["message"]
            for writer in writers:
                writer.transport.abort()
            while bench.server.ending.in_flight:
                await asyncio.sleep(0)
            await ask(bench.client, HELLO["messages"])

    run(check())


# Whatever the OpenAPI document allows, and what it does not

SPEC = document("0")
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda within: st.lists(within, max_size=3) | st.dictionaries(st.text(max_size=8), within, max_size=3),
    max_leaves=8,
)
PATHS = [(path, next(iter(methods.values()))) for path, methods in SPEC["paths"].items() if "post" in methods]


def fields_of(operation: dict[str, Any]) -> list[str]:
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    return list(SPEC["components"]["schemas"][reference.rpartition("/")[2]]["properties"])


@st.composite
def requests(draw: Any) -> tuple[str, bytes, dict[str, str]]:
    """A path of the document, with known fields that hold anything."""
    path, operation = draw(st.sampled_from(PATHS))
    fields = draw(st.lists(st.sampled_from(fields_of(operation)), unique=True)) + draw(
        st.lists(st.text(max_size=5), max_size=1)
    )
    body = {field: draw(ANYTHING) for field in fields}
    if draw(st.booleans()):
        body |= {"messages": [user("hello")]}
    path = path.replace("{id}", draw(st.sampled_from(["mine-1", "them-1", "%00", "a", "..", "%C3%BC"])))
    path = path.replace("{turn}", draw(st.sampled_from(["0", "1", "-1", "x", "10000"])))
    headers = {"Idempotency-Key": draw(st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=9))}
    return path, json.dumps(body).encode(), headers if draw(st.booleans()) else {}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(requests(), min_size=5, max_size=20))
def test_no_request_makes_the_gateway_fail(tmp_path_factory, sent):
    async def check():
        async with gateway(tmp_path_factory.mktemp("fuzz"), read_keys(KEYS)) as bench:
            for path, body, headers in sent:
                said = {"Content-Type": "application/json", "Authorization": f"Bearer {MINE}"} | headers
                url = URL(f"http://127.0.0.1:{bench.client.port}{path}", encoded=True)
                async with bench.client.session.post(url, data=body, headers=said) as response:
                    text = await response.text()
                assert response.status < 500, (path, body, text)
                if response.status >= 400:
                    assert json.loads(text)["error"]["message"]
            for event in bench.events():
                assert (event["conversation_id"] or event["customer_id"]).startswith("mine-")

    run(check())
