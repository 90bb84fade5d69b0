"""The verdict on a candidate: what ends a test, in which order, and what it says."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ippo_trainer.contract.live import ArmReport, Canary, CanaryRoute, CanaryVerdict, Route
from ippo_trainer.live.canary import verdict

CURRENT, CANDIDATE = "sha256:" + "a" * 64, "sha256:" + "b" * 64
SINCE, DAY = 1_000_000.0, 86_400.0


def route(**settings: Any) -> CanaryRoute:
    return CanaryRoute(
        route=Route(digest=CANDIDATE, url="http://candidate:8000"),
        iteration=2,
        since=SINCE,
        settings=Canary(**{"share": "0.5"} | settings),
    )


def judged(control: dict[str, Any], candidate: dict[str, Any], days: float = 1.0, **settings: Any) -> CanaryVerdict:
    """Sides in which every suggestion was sent as it was, unless they say otherwise."""
    arms = [
        ArmReport(digest=digest, **{"accepted": counts.get("conversations", 0)} | counts)
        for digest, counts in ((CURRENT, control), (CANDIDATE, candidate))
    ]
    return verdict(route(**settings), *arms, SINCE + days * DAY)


def side(known: int, outcomes: int, **counts: Any) -> dict[str, Any]:
    return {"conversations": known, "outcomes": outcomes} | counts


def test_more_outcomes_promote_and_the_reason_has_the_figures() -> None:
    said = judged(side(1000, 100), side(1000, 180))
    assert (said.outcome, said.digest, said.since) == ("Promote", CANDIDATE, SINCE)
    assert said.lift == pytest.approx(0.08)
    assert 0 < said.low < 0.08 < said.high
    assert said.reason == (
        "180 outcomes of 1000 conversations (18.0%) of the candidate, 100 outcomes of 1000 conversations (10.0%) of "
        f"the policy before it: +0.0800 ({said.low:+.4f} to {said.high:+.4f} at level 0.05, at every look); the lower "
        "bound is above 0."
    )


def test_fewer_outcomes_reject() -> None:
    said = judged(side(1000, 180), side(1000, 100))
    assert said.outcome == "Reject"
    assert said.high < 0


def test_it_goes_on_while_it_cannot_tell_and_before_there_are_enough() -> None:
    assert judged(side(1000, 100), side(1000, 105)).outcome is None
    early = judged(side(90, 1), side(90, 40))
    assert early.low > 0
    assert (early.outcome, "90 of minConversations 100" in early.reason) == (None, True)
    assert judged(side(90, 1), side(90, 40), min_conversations=90).outcome == "Promote"


def test_limits_end_it_without_an_answer() -> None:
    many = judged(side(500, 50), side(500, 50), max_conversations=500)
    assert (many.outcome, "maxConversations 500" in many.reason) == ("Inconclusive", True)
    late = judged(side(50, 5), side(50, 5), days=31)
    assert (late.outcome, "maxDuration 30d is over" in late.reason) == ("Inconclusive", True)
    assert judged(side(0, 0), side(0, 0), days=31).outcome == "Inconclusive"
    assert judged(side(1000, 100), side(1000, 180), days=31).outcome == "Promote", "what is known counts"


@pytest.mark.parametrize(
    ("rail", "worse", "better"),
    [
        ("complaints", {"complaints": 30}, {"complaints": 3}),
        ("abstention", {"abstained": 60}, {"abstained": 10}),
        ("acceptance", {"accepted": 20}, {"accepted": 75}),
    ],
)
def test_guard_rails_reject_at_once_whatever_outcomes_say(rail: str, worse: Any, better: Any) -> None:
    said = judged(side(90, 1, **better), side(90, 40, **worse))
    assert said.outcome == "Reject"
    assert f"guard-rail {rail}" in said.reason
    assert judged(side(90, 1, **worse), side(90, 40, **better)).outcome is None, "to be better breaks none"


def test_a_guard_rail_is_broken_beyond_its_margin_and_beyond_chance_only() -> None:
    assert judged(side(1000, 100), side(1000, 100, complaints=9)).outcome is None
    assert judged(side(50_000, 5000), side(50_000, 5000, complaints=450), max_conversations=10**6).outcome is None
    assert judged(side(50_000, 5000), side(50_000, 5000, complaints=900), max_conversations=10**6).outcome == "Reject"
    loose = {"guard_rails": {"complaints": "0.5"}}
    assert judged(side(90, 9), side(90, 9, complaints=30), **loose).outcome is None


def test_a_slow_candidate_is_rejected_once_there_are_enough() -> None:
    slow, usual = {"seconds": 4.1}, {"seconds": 2.0}
    assert judged(side(90, 9, **usual), side(90, 9, **slow)).outcome is None
    said = judged(side(200, 20, **usual), side(200, 60, **slow))
    assert said.outcome == "Reject"
    assert "95% of its answers take 4.1 s, more than 2 times 2 s" in said.reason
    assert judged(side(200, 20, **usual), side(200, 60, seconds=3.9)).outcome == "Promote"
    assert judged(side(200, 20), side(200, 60, **slow)).outcome == "Promote", "nothing to compare with"


def test_sides_that_chance_would_not_make_end_it_without_an_answer() -> None:
    said = judged(side(20_000, 2000), side(18_000, 2500), max_conversations=10**6)
    assert said.outcome == "Inconclusive"
    assert "47.37% of the conversations that count, its share is 0.5" in said.reason


sides = st.integers(0, 10_000_000).flatmap(
    lambda known: st.fixed_dictionaries(
        {"conversations": st.just(known)}
        | {name: st.integers(0, known) for name in ("outcomes", "accepted", "abstained", "complaints")}
        | {"seconds": st.none() | st.floats(0, 1e6)}
    )
)


@given(sides, sides, st.sampled_from(["0.001", "0.1", "0.5", "0.999"]))
def test_whatever_was_counted_there_is_a_verdict_in_one_short_line(control: Any, candidate: Any, share: str) -> None:
    said = judged(control, candidate, share=share)
    assert 0 < len(said.reason.encode()) <= 512
    assert -1 <= said.low <= 1
    assert -1 <= said.high <= 1
    assert CanaryVerdict.model_validate_json(said.model_dump_json()) == said
