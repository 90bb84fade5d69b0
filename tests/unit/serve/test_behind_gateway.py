"""ippo-serve behind ippo-gateway: each holds to what the other takes for granted."""

from contextlib import asynccontextmanager

import pytest
from ippo_trainer.contract.personas import Persona

from tests.kit.chat import ask, ask_streamed, assistant, run, user
from tests.kit.gateways import gateway, routes

HISTORY = [user("hello"), assistant("hi", suggestion="hey", reaction="edited"), user("roses")]
C1 = {"metadata": {"conversation_id": "c 1", "customer_id": "u7"}}


@pytest.fixture
def both(serving, tmp_path):
    """A server with a tiny policy, and a gateway in front of it."""

    @asynccontextmanager
    async def go(personas=()):
        async with serving() as (client, _), gateway(tmp_path) as bench:
            bench.routes = routes(str(client.make_url("")), "http://127.0.0.1:1", None, personas)
            yield bench, client

    return go


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choices", [1, 3])
def test_through_the_gateway_the_answer_is_the_servers_and_its_record_is_logged(both, stream, choices):
    async def check():
        async with both() as (bench, client):
            body = {"seed": 5, "n": choices, "temperature": 1.5, **C1}
            asking = ask_streamed if stream else ask
            answer, direct = await asking(bench.client, HISTORY, **body), await asking(client, HISTORY, **body)
            events = bench.events()
            assert [event["suggestion"]["choice"] for event in events] == list(range(choices))
            for event, index in zip(events, range(choices), strict=True):
                record = event["suggestion"]
                assert record["suggestion"] == text_of(answer, index) == text_of(direct, index)
                assert (record["turn"], record["customer_id"], record["temperature"]) == (1, "u7", 1.5)
                assert len(record["token_ids"]) == len(record["logprobs"]) > 0
            assert place_of(answer) == ("c 1", 1)

    run(check())


def test_a_persona_changes_the_prompt_and_the_draw_but_not_what_is_logged_of_the_state(both, renderer):
    bold = Persona(name="bold", share="1", instructions="Be bold.", temperature="0.7", min_p="0.2")

    async def check():
        async with both((bold,)) as (bench, _):
            answer = await ask(bench.client, HISTORY, seed=5, **C1)
            [event] = bench.events()
            record = event["suggestion"]
            assert event["persona"] == "bold"
            assert (record["temperature"], record["min_p"], record["context"]) == (0.7, 0.2, "")
            assert record["messages"] == HISTORY
            plain = renderer.prompt([], "hello").ids
            assert answer["usage"]["prompt_tokens"] > len(plain)

    run(check())


def test_what_the_server_refuses_is_refused_in_its_words(both):
    async def check():
        async with both() as (bench, client):
            for messages, body in (([assistant("hi")], {}), (HISTORY, {"tools": [{"type": "function"}]}), ([{}], {})):
                error = await ask(bench.client, messages, 400, **body)
                assert error == await ask(client, messages, 400, **body)
            assert not bench.events()

    run(check())


def text_of(answer, index):
    if isinstance(answer, dict):
        return answer["choices"][index]["message"]["content"]
    parts = [each for event in answer for each in event["choices"] if each["index"] == index]
    return "".join(part["delta"].get("content", "") for part in parts)


def place_of(answer):
    first = answer if isinstance(answer, dict) else answer[0]
    return first["conversation_id"], first["turn"]
