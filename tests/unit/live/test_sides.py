"""Which conversations are the sides of an A/B test: by assignment, in the order in which they began."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from ippo_trainer.contract.live import ArmReport, Canary, CanaryRoute, Route, Routes
from ippo_trainer.live.assignment import in_canary
from ippo_trainer.live.index import LiveIndex

from tests.kit.live_events import BEGIN, DAY, DIGESTS, Chat, MemoryStore, put_segment

ACTIVE, CANDIDATE = DIGESTS[:2]
HOUR, MINUTE = 3600.0, 60.0
TEST = CanaryRoute(
    route=Route(digest=CANDIDATE, url="http://x"), iteration=1, since=BEGIN - HOUR, settings=Canary(share="0.5")
)
ROUTES = Routes(run="shop", active=Route(digest=ACTIVE, url="http://x"), canary=TEST, idle="30m", outcome_window="1d")


def named(candidate: bool, number: int) -> str:
    """The id of a conversation that is assigned to that side."""
    names = (f"c{number}-{salt}" for salt in range(1000))
    return next(name for name in names if in_canary(CANDIDATE, name, 0.5) == candidate)


def report(folder: Path, events: Iterable[Any], now: float) -> tuple[ArmReport, ArmReport]:
    store = MemoryStore()
    put_segment(store, list(events))
    index = LiveIndex(folder / "index", store)
    said = index.report(ROUTES, now)
    index.close()
    assert said.control is not None
    assert said.candidate is not None
    return said.control, said.candidate


def sale(name: str, began: float, outcome: bool | None) -> list[Any]:
    """A conversation of one turn that ends after a minute, and what is told of its outcome then."""
    chat = Chat(name)
    events = [chat.ask("tea?", "yes", began)]
    return events if outcome is None else [*events, chat.outcome(began + MINUTE) | {"outcome": outcome}]


def test_what_is_known_early_counts_only_after_all_that_began_before_it(tmp_path: Path) -> None:
    """Else the early looks would see outcomes alone, and no conversation without one."""
    events = sale(named(False, 0), BEGIN, None)
    events += [e for number in range(1, 9) for e in sale(named(number % 2 == 0, number), BEGIN + number, True)]
    control, candidate = report(tmp_path / "a", events, BEGIN + HOUR)
    assert (control.conversations, candidate.conversations) == (0, 0)
    assert (control.began, candidate.began) == (5, 4)
    control, candidate = report(tmp_path / "b", events, BEGIN + 1.1 * DAY)
    assert (control.conversations, control.outcomes, candidate.conversations, candidate.outcomes) == (5, 4, 4, 4)


def test_a_conversation_counts_where_it_was_assigned_whoever_answered(tmp_path: Path) -> None:
    """All answers are the active policy's here: the candidate's servers failed."""
    events = [e for number in range(6) for e in sale(named(number < 2, number), BEGIN + number, number == 0)]
    control, candidate = report(tmp_path, events, BEGIN + HOUR)
    assert (candidate.conversations, candidate.outcomes) == (2, 1)
    assert (control.conversations, control.outcomes) == (4, 0)


def test_what_began_before_the_test_does_not_count(tmp_path: Path) -> None:
    events = [*sale(named(True, 0), BEGIN - HOUR, True), *sale(named(True, 1), BEGIN, True)]
    assert report(tmp_path, events, BEGIN + HOUR)[1].conversations == 1


@pytest.mark.parametrize("days", [1.5, 2.5])
def test_a_conversation_without_end_holds_up_nothing_for_ever(tmp_path: Path, days: float) -> None:
    chat = Chat(named(False, 0))
    endless = [chat.ask("and?", "so", BEGIN + number * 20 * MINUTE) for number in range(int(days * 72))]
    events = [*endless, *sale(named(True, 1), BEGIN + 1, True)]
    control, candidate = report(tmp_path, events, BEGIN + days * DAY)
    assert (control.conversations, candidate.conversations) == ((0, 0) if days < 2 else (1, 1))
