"""API keys: scopes, ids that a key is bound to, files that cannot be read, and that nothing tells a key."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.gateway.keys import read_keys
from ippo_trainer.gateway.operations import OPERATIONS
from ippo_trainer.http.errors import RequestError

from tests.kit.chat import run, user
from tests.kit.gateways import gateway
from tests.kit.stub_policy import CHAT

CHATS, EVENTS, BOUND = ("chat-" * 4, "even-" * 4, "boun-" * 4)
FILE = f"""\
# name scopes key prefix

app    chat         {CHATS}
crm    events,erase {EVENTS}
tenant chat,events  {BOUND} t7-
"""
HELLO = [user("hello")]


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Basic YTpi"}, 401),
        ({"Authorization": "Bearer "}, 401),
        (bearer(CHATS[:-1]), 401),
        (bearer(f"{CHATS}x"), 401),
        (bearer("ключ-ключ-ключ-ключ".encode().decode("latin-1")), 401),
        (bearer(EVENTS), None),
        (bearer(CHATS), None),
    ],
)
def test_every_operation_asks_for_its_scope(tmp_path, operation, headers, status):
    if status is None:
        has = {CHATS: {"chat"}, EVENTS: {"events", "erase"}}[headers["Authorization"].removeprefix("Bearer ")]
        status = 403 if operation.scope not in has else None

    async def check():
        async with gateway(tmp_path, read_keys(FILE)) as bench:
            path = operation.path.replace("{id}", "c1").replace("{turn}", "0")
            async with bench.client.request(operation.method, path, json={}, headers=headers) as response:
                value = await response.json()
                assert response.status not in (401, 403) if status is None else response.status == status, value
                if status is not None:
                    assert value["error"]["message"]
                    assert ("WWW-Authenticate" in response.headers) == (status == 401)
            assert not bench.active.asked
            assert not [event for event in bench.events() if status is not None]

    run(check())


def test_what_needs_no_key(tmp_path):
    async def check():
        async with gateway(tmp_path, read_keys(FILE)) as bench:
            for path in ("/healthz", "/readyz", "/openapi.json", "/"):
                assert (await bench.client.get(path)).status == 200, path

    run(check())


def test_a_bound_key_names_its_own_ids_and_no_others(tmp_path):
    async def check():
        async with gateway(tmp_path, read_keys(FILE)) as bench:

            async def status_of(path, body, headers=None):
                async with bench.client.post(path, json=body, headers=bearer(BOUND) | (headers or {})) as response:
                    return response.status, await response.json()

            for body in ({"metadata": {"conversation_id": "c1"}}, {"user": "u7"}, {"metadata": {"customer_id": "x"}}):
                status, value = await status_of(CHAT, {"messages": HELLO, **body})
                assert (status, value["error"]["code"]) == (403, "not_yours")
            assert (await status_of(CHAT, {"messages": HELLO}, {"X-Conversation-Id": "c1"}))[0] == 403
            assert (await status_of("/v1/conversations/c1/close", {}))[0] == 403
            assert (await status_of("/v1/outcomes", {"customer_id": "u7", "outcome": True}))[0] == 403
            assert not bench.events()
            status, value = await status_of(CHAT, {"messages": HELLO})
            assert (status, value["conversation_id"].startswith("t7-conv-")) == (200, True)
            assert (await status_of(CHAT, {"messages": HELLO, "metadata": {"conversation_id": "t7-1"}}))[0] == 200
            assert (await status_of("/v1/conversations/t7-1/close", {}))[0] == 200
            assert (await status_of("/v1/outcomes", {"customer_id": "t7-u", "outcome": True}))[0] == 200

    run(check())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has none"),
        ("# only words\n", "has none"),
        ("app chat\n", "line 1 .* has 2 words"),
        (f"app chat {CHATS} t- more\n", "line 1 .* has 5 words"),
        (f"app chat,admin {CHATS}\n", "line 1 .*scopes"),
        (f"app , {CHATS}\n", "line 1 .*scopes"),
        ("\napp chat short\n", "line 2 .*too short"),
        (f"app chat {CHATS}ü\n", "line 1 .*ASCII"),
        (f"app chat {CHATS}\nb chat {CHATS}\n", "key twice"),
        (f"app chat {CHATS}\napp chat {EVENTS}\n", "name twice"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(text, words):
    with pytest.raises(BadDataError, match=words) as caught:
        read_keys(text)
    assert CHATS not in str(caught.value)
    assert "short" not in str(caught.value).replace("too short", "")


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40))
def test_no_other_key_is_let_in(key):
    keys = read_keys(FILE)
    if key in (CHATS, EVENTS, BOUND):
        return
    with pytest.raises(RequestError) as caught:
        keys.caller(bearer(key), "chat")
    assert caught.value.status == 401
    assert len(key) < 5 or key not in str(caught.value)


def test_no_log_line_and_no_metric_tells_a_key(tmp_path, caplog):
    async def check():
        async with gateway(tmp_path, read_keys(FILE)) as bench:
            for key in (CHATS, EVENTS, "wrong-wrong-wrong"):
                await bench.client.post(CHAT, json={"messages": HELLO}, headers=bearer(key))
            return bench.metrics.render().decode()

    with caplog.at_level(logging.DEBUG):
        text = run(check()) + caplog.text
    assert not [key for key in (CHATS, EVENTS, "wrong-wrong") if key in text]
