"""What applications report: each kind of event, idempotency keys, and a journal without room."""

import asyncio
import time

import pytest
from ippo_trainer.gateway.keys import read_keys
from ippo_trainer.live.journal import JournalLimits

from tests.kit.chat import ask, run, user
from tests.kit.gateways import gateway

C1 = "/v1/conversations/c%201"
KEYS = """\
# who may do what
shop  chat,events  shop-shop-shop-shop
other events       othe-othe-othe-othe
"""


async def tell(bench, path, body, status=200, key=None, bearer=None):
    headers = {} if key is None else {"Idempotency-Key": key}
    headers |= {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
    async with bench.client.post(path, json=body, headers=headers) as response:
        value = await response.json()
        assert response.status == status, value
        return value


CASES = {
    "accepted": (f"{C1}/turns/0/reaction", {"reaction": "accepted"}, {"kind": "reaction", "turn": 0, "sent": None}),
    "edited": (
        f"{C1}/turns/2/reaction",
        {"reaction": "edited", "sent": "Nine.", "suggestion_id": "chatcmpl-1"},
        {"kind": "reaction", "turn": 2, "reaction": "edited", "sent": "Nine.", "suggestion_id": "chatcmpl-1"},
    ),
    "rejected": (f"{C1}/turns/1/reaction", {"reaction": "rejected"}, {"reaction": "rejected", "suggestion_id": ""}),
    "outcome": (f"{C1}/outcome", {"outcome": True}, {"kind": "outcome", "outcome": True, "customer_id": ""}),
    "no outcome": (f"{C1}/outcome", {"outcome": False}, {"kind": "outcome", "outcome": False}),
    "complaint": (f"{C1}/complaint", {}, {"kind": "complaint", "customer_id": ""}),
    "close": (f"{C1}/close", {}, {"kind": "close", "outcome": None}),
    "close with outcome": (f"{C1}/close", {"outcome": False}, {"kind": "close", "outcome": False}),
    "customer's outcome": (
        "/v1/outcomes",
        {"customer_id": "u7", "outcome": True},
        {"kind": "outcome", "customer_id": "u7", "conversation_id": "", "outcome": True},
    ),
    "customer's complaint": (
        "/v1/complaints",
        {"customer_id": 7},
        {"kind": "complaint", "customer_id": "7", "conversation_id": ""},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_report_is_an_event(tmp_path, name):
    path, body, expected = CASES[name]

    async def check():
        async with gateway(tmp_path) as bench:
            before = time.time()
            answer = await tell(bench, path, body)
            [event] = bench.events()
            assert expected.items() <= event.items()
            assert event["version"] == 1
            assert before <= event["time"] == event["at"] <= time.time()
            assert event["event_id"] == answer["event_id"]
            assert event["conversation_id"] == ("c 1" if "conversations" in path else "")
            assert "" not in answer.values()

    run(check())


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (1764230400, 1764230400.0),
        (1764230400123, 1764230400.123),
        ("2025-11-27T08:00:00Z", 1764230400.0),
        ("2025-11-27T10:00:00+02:00", 1764230400.0),
        ("2025-11-27T08:00:00", 1764230400.0),
    ],
)
def test_when_it_happened_is_by_the_clients_clock(tmp_path, said, meant):
    async def check():
        async with gateway(tmp_path) as bench:
            await tell(bench, f"{C1}/close", {"time": said})
            [event] = bench.events()
            assert event["at"] == meant
            assert event["time"] > meant

    run(check())


def test_the_same_key_is_the_same_report(tmp_path):
    async def check():
        async with gateway(tmp_path) as bench:
            first = await tell(bench, f"{C1}/outcome", {"outcome": True}, key="k")
            assert await tell(bench, f"{C1}/outcome", {"outcome": True}, key="k") == first
            many = await asyncio.gather(*(tell(bench, f"{C1}/close", {}, key="m") for _ in range(20)))
            assert len({answer["event_id"] for answer in many}) == 1
            assert [event["kind"] for event in bench.events()] == ["outcome", "close"]
            for path, body in (
                (f"{C1}/outcome", {"outcome": False}),
                ("/v1/conversations/c2/outcome", {"outcome": True}),
                (f"{C1}/close", {"outcome": True}),
                ("/v1/outcomes", {"outcome": True, "customer_id": "c 1"}),
            ):
                error = await tell(bench, path, body, 409, key="k")
                assert error["error"]["code"] == "idempotency_key_reused"
            assert len(bench.events()) == 2

    run(check())


def test_nobody_takes_anothers_key(tmp_path):
    async def check():
        async with gateway(tmp_path, read_keys(KEYS)) as bench:
            first = await tell(bench, f"{C1}/outcome", {"outcome": True}, 200, "k", "shop-shop-shop-shop")
            second = await tell(bench, f"{C1}/outcome", {"outcome": False}, 200, "k", "othe-othe-othe-othe")
            assert first["event_id"] != second["event_id"]
            assert len(bench.events()) == 2

    run(check())


def test_a_report_that_failed_may_come_again_under_its_key(tmp_path):
    async def check():
        async with gateway(tmp_path, journal_limits=JournalLimits(waiting_bytes=10)) as bench:
            error = await tell(bench, f"{C1}/close", {}, 503, key="k")
            assert error["error"]["code"] == "log_full"
            object.__setattr__(bench.journal._limits, "waiting_bytes", 1 << 20)
            await tell(bench, f"{C1}/close", {}, key="k")
            assert len(bench.events()) == 1

    run(check())


def test_without_room_reports_get_503_and_when_to_try_again(tmp_path):
    async def check():
        async with gateway(tmp_path, journal_limits=JournalLimits(waiting_bytes=10)) as bench:
            async with bench.client.post(f"{C1}/close", json={}) as response:
                assert (response.status, response.headers["Retry-After"]) == (503, "1")
            assert not bench.events()

    run(check())


def test_a_suggestion_belongs_to_its_conversation(tmp_path):
    async def check():
        async with gateway(tmp_path) as bench:
            answer = await ask(bench.client, [user("hello")], metadata={"conversation_id": "c 1"})
            body = {"reaction": "accepted", "suggestion_id": answer["id"]}
            error = await tell(bench, "/v1/conversations/c2/turns/0/reaction", body, 400)
            assert error["error"]["param"] == "suggestion_id"
            await tell(bench, f"{C1}/turns/0/reaction", body)
            assert [event["kind"] for event in bench.events()] == ["suggestion", "reaction"]

    run(check())


@pytest.mark.parametrize("identifier", ["a/b", "ü?#&%", "…", "17", "a b", "%2F", "-", "a" * 256])
def test_ids_of_any_kind_come_back_as_they_were(tmp_path, identifier):
    from urllib.parse import quote

    async def check():
        async with gateway(tmp_path) as bench:
            path = f"/v1/conversations/{quote(identifier, safe='')}/close"
            from yarl import URL

            async with bench.client.session.post(
                URL(str(bench.client.make_url("/")).rstrip("/") + path, encoded=True), json={}
            ) as response:
                assert (await response.json())["conversation_id"] == identifier
            assert bench.events()[0]["conversation_id"] == identifier

    run(check())


def test_an_erasure_is_an_event_without_the_id_in_its_own(tmp_path):
    async def check():
        async with gateway(tmp_path) as bench:
            answers = []
            for _ in range(2):
                async with bench.client.delete(C1) as response:
                    assert response.status == 200
                    answers.append(await response.json())
            assert answers[0] == answers[1]
            first, second = bench.events()
            assert (first["kind"], first["conversation_id"]) == ("erased", "c 1")
            assert first["event_id"] == second["event_id"] == answers[0]["event_id"]
            assert "c 1" not in first["event_id"]

    run(check())


@pytest.mark.parametrize(
    ("path", "said", "known"),
    [
        ("c1/turns/0", {}, True),
        ("c1/turns/0", {"suggestion_id": "OWN"}, True),
        ("c1/turns/1", {}, False),  # an application that counts from 1
        ("c2/turns/0", {}, False),
        ("c1/turns/0", {"suggestion_id": "nope"}, False),
    ],
)
def test_a_reaction_to_what_nobody_suggested_is_told_and_counted(tmp_path, path, said, known):
    """It is taken: another replica may have made the suggestion."""

    async def check():
        async with gateway(tmp_path) as bench:
            answer = await ask(bench.client, [user("tea?")], metadata={"conversation_id": "c1"})
            body = {"reaction": "rejected"} | ({"suggestion_id": answer["id"]} if "OWN" in said.values() else said)
            told = await tell(bench, f"/v1/conversations/{path}/reaction", body)
            assert told.get("suggestion_known", True) == known
            assert ("suggestion_known" in told) != known
            assert f"ippo_gateway_unknown_reactions_total {float(not known)}" in bench.metrics.render().decode()

    run(check())
