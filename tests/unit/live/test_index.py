"""The index says what a slow count of all events says, however they come."""

import random
from collections import Counter

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.live import Canary, CanaryRoute, Route, Routes
from ippo_trainer.contract.personas import MOST_PERSONAS
from ippo_trainer.live.index import LiveIndex
from ippo_trainer.live.standing import Rules
from ippo_trainer.live.table import EventTable

from tests.kit.live_events import BEGIN, DAY, DIGESTS, Chat, MemoryStore, of_customer, put_segment, shop
from tests.unit.live import oracle

QUICK = [Phase.explicit, Phase.reuse, Phase.generate]


def routes(idle: str = "30m", window: str = "7d", canary: bool = True) -> Routes:
    active, candidate = (Route(digest=digest, url="http://x") for digest in DIGESTS)
    test = (
        CanaryRoute(route=candidate, iteration=1, since=BEGIN + DAY, settings=Canary(share="0.4")) if canary else None
    )
    return Routes(run="shop", active=active, canary=test, idle=idle, outcome_window=window)


def said(index: LiveIndex, *arguments):
    return index.report(*arguments).model_copy(update={"verdict": None})


@settings(max_examples=25, deadline=None, phases=QUICK)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 60))
def test_the_index_counts_as_the_oracle_does(tmp_path_factory, seed, size):
    """At every moment: segments come one after the other, in no order, and reports between them."""
    folder = tmp_path_factory.mktemp("live")
    store = MemoryStore()
    generator = random.Random(seed)
    events = shop(seed, 25)
    index = LiveIndex(folder / "index", store)
    for number, start in enumerate(range(0, len(events), size)):
        put_segment(store, events[start : start + size], number)
        if generator.random() < 0.3:
            now = max(event["time"] for event in events[: start + size]) + generator.random() * 9 * DAY
            asked = routes(generator.choice(["30m", "2h"]), generator.choice(["1d", "7d"]), generator.random() < 0.8)
            index._read_all = float("-inf")
            assert said(index, asked, now) == oracle.report(events[: start + size], asked, now)
    index.close()
    index = LiveIndex(folder / "index", store)
    for days in (0, 1, 6, 30):
        now = max(event["time"] for event in events) + days * DAY
        assert said(index, routes(), now) == oracle.report(events, routes(), now)
    index.close()


def counted(events, now: float, path, **settings):
    store = MemoryStore()
    put_segment(store, events)
    index = LiveIndex(path, store)
    try:
        return index.report(routes(**settings), now)
    finally:
        index.close()


def test_a_customers_outcome_belongs_to_the_latest_conversation_in_whose_window_it_is(tmp_path):
    """The last one began after the purchase, the one before is past its window."""
    starts = {"old": 0.0, "bought": 9 * DAY, "later": 11 * DAY}
    events = [Chat(name, customer="u1").ask("tea?", "yes", BEGIN + start) for name, start in starts.items()]
    events.append(of_customer("crm/1", "outcome", "u1", BEGIN + 12 * DAY, at=BEGIN + 10 * DAY))
    index = LiveIndex(tmp_path / "index", store := MemoryStore())
    put_segment(store, events)
    assert index.report(routes(), BEGIN + 13 * DAY).usable_outcomes == 1
    rows = index._table.query("SELECT name, outcome FROM conversations ORDER BY began")
    assert list(rows) == [("old", 0), ("bought", 1), ("later", 0)]
    # What comes late may belong to another one than was thought.
    put_segment(store, [Chat("nearer", customer="u1").ask("milk?", "yes", BEGIN + 9.5 * DAY)], 2)
    index._read_all = float("-inf")
    index.report(routes(), BEGIN + 13 * DAY)
    rows = index._table.query("SELECT name FROM conversations WHERE outcome")
    assert list(rows) == [("nearer",)]
    index.close()


def test_of_many_personas_the_newest_are_named(tmp_path):
    """A list that was changed often is no reason to have no report."""
    names = [f"p{number:02d}" for number in range(MOST_PERSONAS + 4)]
    events = [
        Chat(f"c{name}", DIGESTS[0]).ask("tea?", "yes", BEGIN - 60 * at, persona=name) for at, name in enumerate(names)
    ]
    reported = counted(events, BEGIN + 30 * DAY, tmp_path / "index").personas
    assert [each.name for each in reported] == names[:MOST_PERSONAS]


def test_a_lost_or_damaged_file_is_made_anew(tmp_path, caplog):
    store, path = MemoryStore(), tmp_path / "index"
    events = shop(1, 30)
    put_segment(store, events)
    now = max(event["time"] for event in events) + DAY
    index = LiveIndex(path, store)
    first = index.report(routes(), now)
    index.close()
    size = path.stat().st_size
    for damage in (b"", b"no file of SQLite's" * 100, b"\0" * size, path.read_bytes()[: size // 2]):
        path.write_bytes(damage)
        index = LiveIndex(path, store)
        assert index.report(routes(), now) == first
        index.close()
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    index = LiveIndex(path, store)
    assert index.report(routes(), now) == first
    assert "made anew" in caplog.text
    index.close()


def test_the_index_holds_no_texts(tmp_path):
    chat = Chat("c1", customer="u1")
    events = [chat.ask("my secret", "a secret offer", BEGIN)]
    events.append(chat.react(events[0], "edited", BEGIN + 1, "a secret answer"))
    events.append(chat.ask("another secret", "secret words", BEGIN + 2))
    counted(events, BEGIN + DAY, tmp_path / "index")
    index = EventTable(tmp_path / "index", Rules(1800.0, 7 * DAY))
    live = index.conversation("c1", Counter())
    assert [turn.reaction for turn in live.content.turns] == ["edited", "accepted"]
    assert "secret" not in str(live)
    index.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "line 2 is of version 2, this release reads 1"),
        ({"kind": "praise"}, "is of kind 'praise', which this release does not know"),
        ({"time": "noon"}, "line 2 is not what a gateway of this release logs"),
        ({"outcome": 1}, "line 2 is not what a gateway of this release logs"),
    ],
)
def test_what_a_newer_gateway_wrote_is_refused(tmp_path, change, words):
    chat = Chat("c1")
    events = [chat.ask("tea?", "yes", BEGIN), chat.outcome(BEGIN + 1) | change]
    with pytest.raises(BadDataError, match=words):
        counted(events, BEGIN, tmp_path / "index")


def test_what_a_gateway_put_late_is_read_within_the_hour(tmp_path):
    store = MemoryStore()
    index = LiveIndex(tmp_path / "index", store)
    now = BEGIN + 10 * DAY
    put_segment(store, [Chat("c1").ask("tea?", "yes", BEGIN)], 1, BEGIN)
    assert index.report(routes(), now).active.began == 1
    put_segment(store, [Chat("c2").ask("tea?", "yes", now)], 2, now)
    put_segment(store, [Chat("c3").ask("tea?", "yes", BEGIN)], 3, BEGIN)
    assert index.report(routes(), now + 10).active.began == 2
    assert index.report(routes(), now + 3601).active.began == 3
    index.close()
