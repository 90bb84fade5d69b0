"""Figures of conversations, by hand."""

import pytest
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.evaluation.measure import lift, lift_outcome_bounds, measure, outcomes, values
from ippo_trainer.evaluation.transcripts import transcripts
from ippo_trainer.stats.intervals import paired_difference


def talk(reactions: str, outcome: bool = False, censored: bool = False, tokens: int = 3) -> Conversation:
    """a accepted, e edited, r rejected, - abstained."""
    kinds = {"a": "accepted", "e": "edited", "r": "rejected", "-": "rejected"}
    turns = [
        Turn("hello", None if letter == "-" else "try this", kinds[letter], "sent", token_ids=[5] * tokens)  # type: ignore[arg-type]
        for letter in reactions
    ]
    return Conversation(reactions, turns, outcome, censored)


def test_figures_by_hand() -> None:
    got = measure([talk("aer", True), talk("-a"), talk("-", tokens=5), talk("aa", True)], 0.9, 0.95)
    assert got.conversations == 4
    assert got.success.estimate == 0.5
    assert got.value.estimate == pytest.approx((0.81 + 0.9) / 4)
    assert got.acceptance is not None
    assert got.acceptance.estimate == pytest.approx(5 / 6)
    assert got.edited == pytest.approx(1 / 6)
    assert got.abstention.estimate == pytest.approx(2 / 8)
    assert got.length is not None
    assert got.length.estimate == pytest.approx((7 * 3 + 5) / 8)
    assert got.to_json()["rejected"] == pytest.approx(1 / 6)


def test_a_policy_that_only_abstains_has_no_acceptance() -> None:
    got = measure([talk("--"), talk("-")], 0.9, 0.95)
    assert got.acceptance is got.edited is None
    assert got.abstention.estimate == 1.0
    assert got.to_json()["acceptance"] is got.to_json()["rejected"] is None


def test_lift_is_paired_and_weights_for_censored_conversations() -> None:
    candidate = [talk("a", True), talk("aa", True), talk("a"), talk("a", censored=True)]
    current = [talk("a"), talk("a", True), talk("a"), talk("a", True)]
    assert lift(candidate, current, "Success", 0.9, 0.95).estimate == pytest.approx(2 / 3 - 2 / 4)
    assert lift(candidate, current, "Value", 0.9, 0.95).estimate == pytest.approx(1.9 / 3 - 2 / 4)
    whole = lift(candidate[:3], current[:3], "Success", 0.9, 0.95)
    assert whole == paired_difference([1, 1, 0], [0, 1, 0], 0.95)
    first, second = measure(candidate, 0.9, 0.95), measure(current, 0.9, 0.95)
    assert lift_outcome_bounds(first, second, "Success").to_json() == {"low": 0.0, "high": 0.25}
    assert lift_outcome_bounds(first, second, "Value").high == pytest.approx((1.0 + 0.9 + 1.0 - 2.0) / 4)


def test_turns_after_the_outcome_discount_nothing() -> None:
    late = talk("aaaa", True)
    late.turns[2].outcome = late.turns[3].outcome = True
    assert values([late, talk("aaaa", True), talk("aaaa"), talk(""), talk("aa", censored=True)], 0.9) == pytest.approx(
        [0.9, 0.9**3, 0.0, 0.0, 0.0]
    )


def test_what_was_never_displayed_was_neither_accepted_nor_rejected() -> None:
    both = [talk("aar"), talk("rr")]
    both[0].turns[0].displayed = False
    both[1].turns[1].displayed = False
    got = measure(both, 0.9, 0.95)
    assert got.acceptance is not None
    assert got.acceptance.estimate == pytest.approx(1 / 3)
    assert got.abstention.estimate == 0.0


def test_reactions_in_censored_conversations_count() -> None:
    got = measure([talk("a"), talk("r"), talk("rrr", censored=True)], 0.9, 0.95)
    assert got.acceptance is not None
    assert got.acceptance.estimate == pytest.approx(1 / 5)
    assert (got.conversations, got.censored) == (2, 1)


def test_values_are_the_first_turns_returns() -> None:
    both = [talk("aaa", True), talk("a")]
    assert values(both, 0.5).tolist() == [0.25, 0.0]
    assert outcomes(both).tolist() == [1.0, 0.0]


def test_transcripts_show_the_same_seeds_and_rare_outcomes() -> None:
    seeds = [2**62 + index for index in range(100)]
    candidate = [talk("a", index in (50, 60, 70)) for index in range(100)]
    current = [talk("r", index in (60, 90)) for index in range(100)]
    shown = transcripts(candidate, current, seeds)
    assert [row["seed"] for row in shown["candidate"]] == [str(seeds[i]) for i in (0, 1, 2, 3, 50, 60, 70, 90)]
    assert [row["seed"] for row in shown["current"]] == [row["seed"] for row in shown["candidate"]]
    assert shown["candidate"][0]["turns"] == [
        {"customer": "hello", "suggestion": "try this", "reaction": "accepted", "sent": "sent"}
    ]


def test_few_conversations_are_all_shown() -> None:
    shown = transcripts([talk("a"), talk("a", True)], [talk("r"), talk("r")], [1, 2])
    assert [row["seed"] for row in shown["candidate"]] == ["1", "2"]
