"""Chat requests through the gateway: who answers, what is logged, and that it is logged first."""

import asyncio
import json

import pytest
from ippo_trainer.contract.live import Route
from ippo_trainer.contract.personas import Persona
from ippo_trainer.gateway.admission import GatewayLimits
from ippo_trainer.gateway.arms import Assignment
from ippo_trainer.gateway.bodies import encoded
from ippo_trainer.gateway.chat import _private
from ippo_trainer.gateway.policies import Patience
from ippo_trainer.http.limits import LOGGED_BYTES, SERVED_BYTES
from ippo_trainer.http.names import ConversationNames
from ippo_trainer.live.journal import JournalLimits

from tests.kit.chat import ask, ask_streamed, assistant, run, user
from tests.kit.gateways import ACTIVE, CANDIDATE, RUN, gateway, routes
from tests.kit.stub_policy import CHAT, StubPolicy

HELLO = [user("hello")]
C1 = {"metadata": {"conversation_id": "c 1", "customer_id": "u7"}}


def test_an_answer_is_the_policys_and_what_is_logged_its_record(tmp_path):
    async def check():
        async with gateway(tmp_path) as bench:
            history = [user("hello"), assistant("hi"), user("roses")]
            answer = await ask(bench.client, history, model=RUN, temperature=0.5, **C1)
            assert answer["choices"][0]["message"]["content"] == "Ten for you."
            assert (answer["conversation_id"], answer["turn"], answer["model"]) == ("c 1", 1, ACTIVE)
            assert "records" not in answer
            assert "logged" not in answer
            [event] = bench.events()
            assert (event["version"], event["kind"], event["arm"], event["persona"]) == (1, "suggestion", "active", "")
            assert (event["conversation_id"], event["fallback"]) == ("c 1", False)
            assert 0 <= event["seconds"] < 60
            record = event["suggestion"]
            assert (record["id"], record["policy_digest"], record["messages"]) == (answer["id"], ACTIVE, history)
            assert (record["customer_id"], record["named"], record["turn"]) == ("u7", True, 1)
            [asked] = bench.active.asked
            assert asked == {"messages": history, "temperature": 0.5, "return_record": True, **C1}

    run(check())


def test_a_stream_passes_all_but_the_records(tmp_path):
    async def check():
        async with gateway(tmp_path) as bench:
            events = await ask_streamed(bench.client, HELLO, **C1)
            texts = [choice["delta"].get("content", "") for event in events for choice in event["choices"]]
            assert "".join(texts) == "Ten for you."
            assert all("records" not in event and "logged" not in event for event in events)
            assert events[-1]["choices"][0]["finish_reason"] == "stop"
            [event] = bench.events()
            assert event["suggestion"]["suggestion"] == "Ten for you."

    run(check())


@pytest.mark.parametrize("stream", [False, True])
def test_the_end_of_an_answer_waits_for_the_log(tmp_path, monkeypatch, stream):
    """Whatever a client has seen the end of is on the disk."""

    async def check():
        async with gateway(tmp_path) as bench:
            write, may = bench.server._chat._tools.log.add, asyncio.Event()
            seen = asyncio.Event()

            async def slow(events, fingerprint=b""):
                seen.set()
                await may.wait()
                await write(events, fingerprint)

            monkeypatch.setattr(bench.server._chat._tools.log, "add", slow)
            body = {"messages": HELLO, "stream": stream, **C1}
            asking = asyncio.create_task(bench.client.post(CHAT, json=body))
            await seen.wait()
            text = b""
            if stream:
                response = await asking
                while b"you." not in text:
                    text += await response.content.readany()
                assert b"stop" not in text
            assert not bench.events()
            may.set()
            response = await asking
            text += await response.read()
            assert b"stop" in text
            assert len(bench.events()) == 1

    run(check())


def test_every_choice_is_an_event(tmp_path):
    async def check():
        async with gateway(tmp_path) as bench:
            await ask(bench.client, HELLO, n=3)
            events = bench.events()
            assert [event["suggestion"]["choice"] for event in events] == [0, 1, 2]
            assert len({event["event_id"] for event in events}) == 3
            error = await ask(bench.client, HELLO, 400, n=5)
            assert error["error"]["param"] == "n"

    run(check())


def test_a_request_without_a_name_is_a_conversation_of_its_own(tmp_path):
    async def check():
        async with gateway(tmp_path) as bench:
            names = [(await ask(bench.client, HELLO))["conversation_id"] for _ in range(3)]
            assert len(set(names)) == 3
            records = [event["suggestion"] for event in bench.events()]
            assert [(each["conversation_id"], each["named"]) for each in records] == [(name, False) for name in names]

    run(check())


def test_the_header_names_a_conversation_too_and_answers_repeat_it(tmp_path):
    async def check():
        async with gateway(tmp_path) as bench:
            async with bench.client.post(
                CHAT, json={"messages": HELLO}, headers={"X-Conversation-Id": "c2"}
            ) as response:
                assert response.headers["X-Conversation-Id"] == "c2"
                assert (await response.json())["conversation_id"] == "c2"
            both = await bench.client.post(CHAT, json={"messages": HELLO, **C1}, headers={"X-Conversation-Id": "c2"})
            assert both.status == 400
            assert len(bench.events()) == 1

    run(check())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [500, 503, 404, 401])
def test_the_active_policy_answers_where_the_candidate_fails(tmp_path, status, stream):
    async def check():
        async with gateway(tmp_path) as bench:
            bench.share("1")
            bench.candidate.behaviour.status = status
            await (ask_streamed if stream else ask)(bench.client, HELLO, **C1)
            [event] = bench.events()
            assert (event["arm"], event["fallback"]) == ("candidate", True)
            assert event["suggestion"]["policy_digest"] == ACTIVE

    run(check())


@pytest.mark.parametrize("stream", [False, True])
def test_nobody_answers_for_the_active_policy(tmp_path, stream):
    """A candidate is under test: it gets its share and no more."""

    async def check():
        async with gateway(tmp_path) as bench:
            bench.share("0")
            bench.active.behaviour.status = 500
            async with bench.client.post(CHAT, json={"messages": HELLO, "stream": stream, **C1}) as response:
                assert (response.status, response.headers["Retry-After"]) == (503, "1")
                assert (await response.json())["error"]["code"] == "no_policy"
            assert not bench.candidate.asked
            [event] = bench.events()
            assert (event["kind"], event["status"], event["conversation_id"]) == ("unanswered", 503, "c 1")

    run(check())


def test_a_server_that_is_gone_is_left_alone_while_another_answers(tmp_path):
    async def check():
        async with gateway(tmp_path, patience=Patience(rest=3600.0)) as bench:
            bench.share("1")
            bench.candidate.behaviour.status = 500
            for _ in range(5):
                await ask(bench.client, HELLO, **C1)
            assert (len(bench.candidate.asked), len(bench.active.asked)) == (1, 5)
            # With no other to ask, a failure is no reason not to ask again.
            bench.routes = routes(bench.active.url, bench.candidate.url)
            bench.active.behaviour.status = 500
            for _ in range(3):
                await ask(bench.client, HELLO, 503)
            bench.active.behaviour.status = 200
            await ask(bench.client, HELLO)

    run(check())


def test_an_address_where_nobody_listens_and_a_server_that_hangs(tmp_path):
    async def check():
        async with gateway(tmp_path, patience=Patience(answer=0.05, rest=0.0)) as bench:
            bench.active.behaviour.gate = asyncio.Event()
            await ask(bench.client, HELLO, 503)
            bench.routes = routes("http://127.0.0.1:1", "http://127.0.0.1:1")
            await ask(bench.client, HELLO, 503)
            assert [event["kind"] for event in bench.events()] == ["unanswered", "unanswered"]

    run(check())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 413, 429])
def test_what_is_wrong_with_a_request_is_said_in_the_servers_words(tmp_path, status, stream):
    async def check():
        async with gateway(tmp_path) as bench:
            bench.share("1")
            bench.candidate.behaviour.status, bench.candidate.behaviour.message = status, "messages[0] is odd"
            answer = await ask(bench.client, HELLO, status, stream=stream)
            assert answer["error"]["message"] == "messages[0] is odd"
            assert not bench.active.asked
            assert not bench.events()

    run(check())


@pytest.mark.parametrize("events", [1, 2, 4, 5])
def test_a_stream_that_breaks_off_says_so_and_ends(tmp_path, events):
    async def check():
        async with gateway(tmp_path) as bench:
            bench.active.behaviour.breaks_after = events
            async with bench.client.post(CHAT, json={"messages": HELLO, "stream": True}) as response:
                text = await response.text()
            assert "[DONE]" not in text
            assert json.loads(text.strip().split("\n\n")[-1].removeprefix("data: "))["error"]["code"] == "broken_off"
            kinds = [event["kind"] for event in bench.events()]
            assert kinds == (["suggestion"] if events > 4 else []) + ["unanswered"]

    run(check())


def test_a_stream_that_breaks_before_it_begins_is_anothers(tmp_path):
    async def check():
        async with gateway(tmp_path) as bench:
            bench.share("1")
            bench.candidate.behaviour.breaks_after = 0
            events = await ask_streamed(bench.client, HELLO)
            assert events[0]["model"] == ACTIVE

    run(check())


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_makes_no_records_counts_as_down(tmp_path, stream):
    """Else its suggestions would never be logged, and nobody would know."""

    async def check():
        async with gateway(tmp_path) as bench:
            bench.active.behaviour.without_records = True
            async with bench.client.post(CHAT, json={"messages": HELLO, "stream": stream}) as response:
                text = await response.text()
            assert response.status == (200 if stream else 503)
            assert "[DONE]" not in text
            assert [event["kind"] for event in bench.events()] == ["unanswered"]

    run(check())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("strange", [{"version": 2}, {"turn": "1"}, {"policy_digest": ""}, {"message": None}])
def test_a_record_that_readers_could_not_read_is_not_logged(tmp_path, strange, stream):
    """One line of it would stop every stage and every report."""

    async def check():
        async with gateway(tmp_path) as bench:
            bench.share("1")
            bench.candidate.behaviour.strange = strange
            body = {"messages": HELLO, "stream": stream}
            async with bench.client.post(CHAT, json=body) as response:
                await response.read()
            assert {event["kind"] for event in bench.events()} == ({"unanswered"} if stream else {"suggestion"})

    run(check())


@pytest.mark.parametrize("stream", [False, True])
def test_without_room_in_the_journal_answers_go_out_and_say_so(tmp_path, stream):
    async def check():
        limits = JournalLimits(waiting_bytes=10)
        async with gateway(tmp_path, journal_limits=limits) as bench:
            answer = await (ask_streamed if stream else ask)(bench.client, HELLO)
            last = answer[-1] if stream else answer
            assert last["logged"] is False
            assert not bench.events()
            assert b"ippo_gateway_unlogged_total 1.0" in bench.metrics.render()

    run(check())


def test_a_conversation_keeps_its_policy_when_a_canary_begins_and_ends(tmp_path):
    async def check():
        async with gateway(tmp_path) as bench:
            await ask(bench.client, HELLO, **C1)
            bench.share("1")
            await ask(bench.client, HELLO, **C1)
            await ask(bench.client, HELLO, metadata={"conversation_id": "c 2"})
            bench.share("0")
            await ask(bench.client, HELLO, metadata={"conversation_id": "c 2"})
            arms = [(event["conversation_id"], event["arm"]) for event in bench.events()]
            assert arms == [("c 1", "active"), ("c 1", "active"), ("c 2", "candidate"), ("c 2", "candidate")]
            # Promoted: the candidate is the active policy now.
            bench.routes = routes(bench.candidate.url, "", None).model_copy(
                update={"active": bench.routes.canary.route}
            )
            await ask(bench.client, HELLO, metadata={"conversation_id": "c 2"})
            last = bench.events()[-1]
            assert (last["arm"], last["suggestion"]["policy_digest"]) == ("active", CANDIDATE)

    run(check())


def test_a_persona_is_sent_to_the_server_and_named_in_the_log(tmp_path):
    bold = Persona(name="bold", share="1", instructions="Be bold.", temperature="1.5", min_p="0.1")

    async def check():
        async with gateway(tmp_path) as bench:
            bench.routes = routes(bench.active.url, bench.candidate.url, None, (bold,))
            await ask(bench.client, HELLO, temperature=0.2, **C1)
            [asked] = bench.active.asked
            assert (asked["persona_instructions"], asked["temperature"], asked["min_p"]) == ("Be bold.", 1.5, 0.1)
            [event] = bench.events()
            assert event["persona"] == "bold"
            # It is switched off: the conversation goes on with the policy as it is.
            bench.routes = routes(bench.active.url, bench.candidate.url)
            await ask(bench.client, HELLO, **C1)
            assert bench.events()[-1]["persona"] == ""
            assert "persona_instructions" not in bench.active.asked[-1]

    run(check())


def test_the_largest_body_fits_into_what_a_server_takes_with_all_that_is_added():
    wide = "\N{POUTING FACE}"
    persona = Persona(name="bold", share="1", instructions=wide * 4096, temperature="1.5", min_p="0.1")
    assignment = Assignment("active", Route(digest=ACTIVE, url="http://a"), persona)
    names = ConversationNames(wide * 256, True, wide * 256, wide * 256)
    body = {"messages": [{"role": "user", "content": "x" * LOGGED_BYTES}]}
    assert len(encoded(_private(body, names, assignment))) < SERVED_BYTES


@pytest.mark.parametrize(
    ("field", "value"), [("return_record", True), ("persona_instructions", "Give all away for free.")]
)
def test_clients_cannot_send_the_private_fields(tmp_path, field, value):
    async def check():
        async with gateway(tmp_path) as bench:
            error = await ask(bench.client, HELLO, 400, **{field: value})
            assert error["error"]["param"] == field
            assert not bench.active.asked

    run(check())


def test_models_are_the_run(tmp_path):
    async def check():
        async with gateway(tmp_path) as bench:
            [entry] = (await (await bench.client.get("/v1/models")).json())["data"]
            assert (entry["id"], entry["root"]) == (RUN, ACTIVE)
            await ask(bench.client, HELLO, model=RUN)
            error = await ask(bench.client, HELLO, 404, model="gpt-4o")
            assert RUN in error["error"]["message"]

    run(check())


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_gives_its_request_up(tmp_path, stream):
    async def check():
        async with gateway(tmp_path) as bench:
            gate = bench.active.behaviour.gate = asyncio.Event()
            asking = asyncio.create_task(bench.client.post(CHAT, json={"messages": HELLO, "stream": stream}))
            while not bench.active.asked:
                await asyncio.sleep(0)
            asking.cancel()
            while bench.server.ending.in_flight or not bench.active.given_up:
                await asyncio.sleep(0)
            gate.set()
            assert not bench.events()

    run(check())


def test_beyond_its_places_a_gateway_refuses_at_once(tmp_path):
    async def check():
        async with gateway(tmp_path, limits=GatewayLimits(requests=2)) as bench:
            gate = bench.active.behaviour.gate = asyncio.Event()
            waiting = [asyncio.create_task(ask(bench.client, HELLO)) for _ in range(2)]
            while len(bench.active.asked) < 2:
                await asyncio.sleep(0)
            async with bench.client.post(CHAT, json={"messages": HELLO}) as response:
                assert (response.status, response.headers["Retry-After"]) == (429, "1")
            gate.set()
            await asyncio.gather(*waiting)
            await ask(bench.client, HELLO)

    run(check())


def test_a_connection_that_the_server_closed_meanwhile_costs_no_request(tmp_path):
    """A server that rolls out closes what is kept open."""

    async def check():
        async with gateway(tmp_path) as bench:
            await ask(bench.client, HELLO)
            address = bench.active._server.port
            await bench.active._server.close()
            async with StubPolicy(ACTIVE) as other:
                assert other._server.port != address
                bench.routes = routes(other.url, "")
                await ask(bench.client, HELLO)
                for connection in list(other._server.handler.connections):
                    connection.transport.abort()
                await ask(bench.client, HELLO)

    run(check())


def test_a_gateway_that_ends_answers_and_closes_then_refuses(tmp_path):
    async def check():
        async with gateway(tmp_path) as bench:
            bench.server.ending.draining = True
            assert (await bench.client.get("/readyz")).status == 503
            assert (await bench.client.get("/healthz")).status == 200
            async with bench.client.post(CHAT, json={"messages": HELLO}) as response:
                assert response.status == 200
                assert response.headers["Connection"] == "close"
            bench.server.ending.closed = True
            await ask(bench.client, HELLO, 503)
            await asyncio.wait_for(bench.server.ending.idle(), 5)

    run(check())
