"""Collect from the log of gateways, and the stages that learn from it."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from ippo_trainer.contract import params
from ippo_trainer.contract.layout import LIVE
from ippo_trainer.contract.personas import Persona
from ippo_trainer.contract.spec import ArtifactRef, StageSpec
from ippo_trainer.data.own import persona_of
from ippo_trainer.data.schema import Conversation
from ippo_trainer.live.erase import erase
from ippo_trainer.live.events import Event
from ippo_trainer.live.standing import Rules
from ippo_trainer.live.table import EventTable
from ippo_trainer.stages import tally
from ippo_trainer.store import open_store
from ippo_trainer.store.artifact import read_manifest

from tests.kit.chat import assistant
from tests.kit.live_events import BEGIN, DAY, Chat, put_all, put_segment, shop
from tests.unit.live import oracle

LATER = int(BEGIN + 40 * DAY)
ENDS = (3, 4)


def logged(**settings: Any) -> params.Logged:
    return params.Logged(idle="30m", outcome_window="7d", **settings)


def put(world: Any, events: Sequence[Event], size: int = 20) -> None:
    put_all(open_store(world.location.below(LIVE)), events, size)


def spec_of(world: Any, policy: ArtifactRef, until: float = LATER, **settings: Any) -> StageSpec:
    section = logged(**settings)
    return world.spec("collect", {"policy": policy}, logged=section, until=int(until), environment=None)


def of_policy(events: Iterable[Event], digest: str) -> list[Event]:
    """The same events, with the first policy's digest in place of the first of the shop's."""
    return json.loads(json.dumps(list(events)).replace("sha256:" + "1" * 64, digest))


@pytest.mark.parametrize("until", [LATER, BEGIN + 3 * DAY, BEGIN + 8 * DAY])
def test_it_takes_what_a_slow_count_takes(small_world: Any, until: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever pieces the log and the data are in."""
    monkeypatch.setattr(tally, "PIECE_TURNS", 5)
    policy = small_world.put_policy(1)
    events = of_policy(shop(5, 60), policy.digest)
    put(small_world, events)
    result = small_world.result(spec_of(small_world, policy, until))
    rules = Rules.of(logged())
    rows = oracle.conversations([event for event in events if event["time"] <= int(until)], rules, int(until))
    mine = [row for row in rows if row.live.digest == policy.digest]
    mine.sort(key=lambda row: (row.live.course.began, row.live.content.id))
    data = small_world.data_of(result)
    assert [each.id for each in data] == [r.live.content.id for r in mine]
    assert [each.censored for each in data] == [not r.known for r in mine]
    assert [each.outcome for each in data] == [r.known and r.outcome for r in mine]
    for each, row in zip(data, mine, strict=True):
        assert [t.suggestion for t in each.turns] == [t.suggestion for t in row.live.content.turns]
        assert [t.behaviour for t in each.turns] == [t.behaviour for t in row.live.content.turns]
    assert {t.behaviour for each in data for t in each.turns} >= {"policy", "explore"}
    assert result.metrics["changedHands"] == sum(r.live.handed for r in mine)
    assert result.metrics["censored"] == sum(not r.known for r in mine)


def test_the_report_of_the_data_and_where_it_came_from(small_world: Any) -> None:
    policy = small_world.put_policy(1)
    one, two, three = (Chat(f"c{number}", policy.digest) for number in range(3))
    first = one.ask("tea?", "yes", BEGIN)
    late = one.react(first, "accepted", BEGIN + DAY)
    asks = [two.ask("milk?", "no", BEGIN + 1), three.ask("salt?", "yes", BEGIN + 2)]
    three.send(asks[1])
    three.digest = "sha256:" + "2" * 64
    other = three.ask("how much?", "ten", BEGIN + 3)
    ends = [one.outcome(BEGIN + 60), two.close(BEGIN + 9, at=BEGIN + 9000, outcome=False)]
    nowhere = Chat("c9", policy.digest).outcome(BEGIN + 70)
    stray = one.react(first | {"suggestion": first["suggestion"] | {"id": "nope", "turn": 7}}, "rejected", BEGIN + 71)
    put(small_world, [first, late, first, *asks, other, *ends, nowhere, stray], 4)
    result = small_world.result(spec_of(small_world, policy))
    names = (
        "duplicates",
        "lateReactions",
        "changedHands",
        "withoutReaction",
        "clockSkew",
        "unnamed",
        "strayReactions",
        "unasked",
    )
    assert [result.metrics[name] for name in names] == [1, 1, 1, 2, 1, 0, 1, 1]
    assert result.message == "3 conversations of 3 segments, 1 of 3 with the outcome."
    [warning] = result.warnings or ()
    assert "1 conversations that changed hands" in warning
    manifest = read_manifest(small_world.store, result.artifacts["data"])
    assert manifest.inputs == {"policy": policy.digest}
    assert manifest.metadata["report"]["events that were logged twice"] == 1
    small_world.data_of(result)
    keys = json.loads((small_world.folder / "fetched/segments.json").read_bytes())
    assert keys == sorted(info.key for info in open_store(small_world.location.below(LIVE)).list(""))


def test_the_newest_conversations_that_are_known(small_world: Any) -> None:
    """With those that are still open and began since."""
    policy = small_world.put_policy(1)
    events = []
    for number in range(6):
        chat = Chat(f"c{number}", policy.digest)
        begin = BEGIN + number * 60
        events.append(chat.ask("tea?", "yes", begin))
        if number not in ENDS:
            events.append(chat.close(begin + 5, outcome=number % 2 == 0))
    put(small_world, events)
    until = BEGIN + 2 * 3600
    result = small_world.result(spec_of(small_world, policy, until, max_conversations=2))
    assert [(each.id, each.censored) for each in small_world.data_of(result)] == [
        ("c2", False),
        ("c3", True),
        ("c4", True),
        ("c5", False),
    ]


def test_too_few_known_outcomes(small_world: Any) -> None:
    policy = small_world.put_policy(1)
    put(small_world, [Chat(f"c{number}", policy.digest).ask("tea?", "yes", BEGIN) for number in range(5)])
    code, message = small_world.run(spec_of(small_world, policy, BEGIN + DAY))
    assert code == 65
    text = message["error"]["message"]
    assert "0 conversations of the policy have a known outcome; it began 5 of 5 in" in text
    assert "collect.logged.outcomeWindow" in text


@pytest.mark.parametrize("number", [6, 9, 14])
def test_killed_it_goes_on_with_the_same_segments(
    small_world: Any, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though more have come meanwhile."""
    monkeypatch.setattr(tally, "PIECE_TURNS", 10)
    policy = small_world.put_policy(1)
    put(small_world, of_policy(shop(6, 60), policy.digest))
    spec = spec_of(small_world, policy)
    small_world.kill_at_put(spec, number)
    more = [Chat("new", policy.digest).ask("tea?", "yes", BEGIN)]
    put_segment(store := open_store(small_world.location.below(LIVE)), more, 9999)
    resumed = small_world.result(spec)
    for each in list(small_world.store.list("iterations")):
        small_world.store.delete(each.key)
    for info in list(store.list("")):
        if "-009999" in info.key:
            store.delete(info.key)
    assert small_world.result(spec).artifacts == resumed.artifacts


def events_of(conversations: Sequence[Conversation], digest: str) -> list[Event]:
    """As a shop that says all of it to its gateway."""
    events: list[Event] = []
    for number, each in enumerate(conversations):
        chat, time = Chat(each.id, digest, each.customer_id), BEGIN + 60.0 * number
        for turn in each.turns:
            time += 5
            drawn = {"token_ids": turn.token_ids, "logprobs": turn.sampler_logprobs}
            suggestion = chat.ask(turn.customer_message, turn.suggestion, time, persona=turn.writer, **drawn)
            sent = None if turn.reaction == "accepted" else turn.sent_message
            events += [suggestion, chat.react(suggestion, turn.reaction, time + 2, sent)]
        events.append(chat.close(time + 3, outcome=each.outcome))
    return events


def test_the_stages_learn_from_it_as_from_simulated_conversations(small_world: Any) -> None:
    """What a policy and its persona said to simulated customers, told by way of a gateway's log, are the same turns; Q,
    a candidate and the estimate of its gain come of them."""
    policy = small_world.put_policy(1)
    personas = (Persona(name="bold", share="0.25", temperature="1.5"),)
    simulated = params.Collect(conversations=64, parallelism=1, batch_size=32, personas=personas)
    inputs = {"policy": policy, "explorer": policy}
    held = small_world.data_of(small_world.result(small_world.spec("collect", inputs, collect=simulated)), "held")
    won = sorted(held, key=lambda each: len(each.turns))[::2]
    for each in held:
        each.outcome = each in won
    put(small_world, events_of(held, policy.digest), 100)
    small_world.store.delete("iterations/0001/collect/result.json")
    result = small_world.result(spec_of(small_world, policy))
    data = small_world.data_of(result)
    for each, original in zip(data, held, strict=True):
        assert (each.outcome, each.censored) == (original.outcome, False)
        for turn, before in zip(each.turns, original.turns, strict=True):
            texts = ("customer_message", "suggestion", "reaction", "sent_message")
            for name in (*texts, "token_ids", "policy_digest", "behaviour", "writer"):
                assert getattr(turn, name) == getattr(before, name)
            assert turn.sampler_logprobs == pytest.approx(before.sampler_logprobs)
    outcomes = [[each.outcome for each in held if bool(persona_of(each)) == explored] for explored in (True, False)]
    shares = [len(outcomes[0]) / len(held), *(sum(each) / len(each) for each in outcomes)]
    names = ("personaShare", "personaSuccess", "successWithoutPersonas")
    assert [result.metrics[name] for name in names] == shares
    inputs = {"policy": policy, "data": result.artifacts["data"]}
    q = small_world.result(small_world.spec("fit-q", inputs, fit_q=params.FitQ(epochs=1), environment=None))
    turns = [turn for each in held for turn in each.turns]
    assert q.metrics["exploredShare"] == sum(turn.behaviour == "explore" for turn in turns) / len(turns)
    assert q.metrics["successUnexplored"] == pytest.approx(shares[2])
    assert "foreignShare" not in q.metrics
    inputs |= {"q": q.artifacts["q"], "explorer": policy}
    section = params.Improve(algorithm="MPO", updates=2, batch_size=4, samples_per_state=2)
    improved = small_world.result(small_world.spec("improve", inputs, improve=section, environment=None))
    del inputs["explorer"]
    inputs["candidate"] = improved.artifacts["policy"]
    evaluated = small_world.result(small_world.spec("evaluate", inputs, evaluate=params.Evaluate(), environment=None))
    assert evaluated.decision is not None
    assert "doublyRobustLift" in evaluated.metrics


def test_what_an_erasure_wrote_anew_meanwhile_is_read(small_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The conversations beside the one that went are not lost with their segment."""
    policy = small_world.put_policy(1)
    put(small_world, [event for number in range(6) for event in _closed(f"c{number}", policy.digest)], 4)
    calls = []

    def erasing(self: EventTable, *arguments: Any) -> None:
        if not calls:
            calls.append(erase(small_world.store, "c3", LATER))
        add(self, *arguments)

    add = EventTable.add
    monkeypatch.setattr(EventTable, "add", erasing)
    data = small_world.data_of(small_world.result(spec_of(small_world, policy)))
    assert [each.id for each in data] == ["c0", "c1", "c2", "c4", "c5"]


def test_a_conversation_that_cannot_be_read_is_left_out_and_told(small_world: Any) -> None:
    policy = small_world.put_policy(1)
    events = [event for n in range(3) for event in _closed(f"c{n}", policy.digest)]
    events[0]["suggestion"]["messages"] = [assistant("no question")]
    put(small_world, events)
    result = small_world.result(spec_of(small_world, policy))
    assert [each.id for each in small_world.data_of(result)] == ["c1", "c2"]
    assert any("1 conversations that cannot be read" in text for text in result.warnings or ())


def _closed(name: str, digest: str) -> list[Event]:
    chat = Chat(name, digest)
    return [chat.ask("tea?", "yes", BEGIN), chat.close(BEGIN + 1, name != "c1")]
