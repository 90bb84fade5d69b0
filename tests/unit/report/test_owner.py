"""The section for the owner of the business."""

from dataclasses import replace
from typing import Any

import pytest
from ippo_trainer.contract.spec import Decision
from ippo_trainer.evaluation.comparisons import Comparisons, PairOfSuggestions
from ippo_trainer.evaluation.groups import GroupValue, GroupValues
from ippo_trainer.report import owner
from ippo_trainer.report.model import Cycle, Estimate, Evaluation, PolicyScore, RunReport
from ippo_trainer.report.page import render

ANSWER = Decision(outcome="Promote", reason="Better.")


def score(success: float, abstention: float, acceptance: float) -> PolicyScore:
    return PolicyScore(
        success=Estimate(estimate=success, low=success - 0.02, high=success + 0.02),
        value=Estimate(estimate=success),
        abstention=Estimate(estimate=abstention),
        acceptance=Estimate(estimate=acceptance),
    )


def simulated(spec: dict[str, Any], outcome: str = "Promote") -> RunReport:
    evaluation = Evaluation(candidate=score(0.25, 0.05, 0.6), current=score(0.2, 0.1, 0.5))
    decision = Decision(outcome=outcome, reason="So it is.")  # type: ignore[arg-type]
    return RunReport("shop", {"spec": spec}, [Cycle(1, evaluation=evaluation, decision=decision)])


def logged(spec: dict[str, Any] | None = None, **lift: float) -> RunReport:
    pairs = [
        PairOfSuggestions(
            conversation=f"c{number}",
            turn=0,
            history=[],
            message="do you have tea?",
            candidate="We have green tea, which one would you like?",
            current=None if number % 2 else "Please look at our web site.",
        )
        for number in range(10)
    ]
    compared = Comparisons(states=40, identical=10, silent_candidate=4, silent_current=8, pairs=pairs)
    figures = {"heldOutQLift": 0.01, "offPolicyLift": 0.03, "offPolicyLiftLow": 0.01, "offPolicyLiftHigh": 0.05} | lift
    metrics = {"collect": {"success": 0.196, "conversations": 10_000.0}, "evaluate": figures}
    groups = {"web": (6000, 5000, 500), "shop": (4000, 4000, 1200)}
    cycle = Cycle(1, metrics=metrics, decision=ANSWER, comparisons=compared, groups=groups)
    return RunReport("shop", {"spec": spec or {}}, [cycle])


def test_groups_have_the_candidates_figures_or_are_too_small() -> None:
    run = logged()
    table = owner.page(run).groups  # type: ignore[union-attr]
    assert table is not None
    assert list(table.head) == ["group", "conversations", "outcomes per 1,000"]
    values = {
        "web": GroupValue(conversations=900, outcomes=90, current=0.1, candidate=0.12, lift=(0.02, -0.01, 0.05)),
        "shop": GroupValue(conversations=40, outcomes=8),
    }
    run = replace(run, cycles=[replace(run.cycles[0], group_values=GroupValues(groups=values))])
    page = owner.page(run)
    assert page is not None
    assert page.groups is not None
    assert list(page.groups.rows) == [
        ["web", "6,000", "100", "+20 (−10 to +50)"],
        ["shop", "4,000", "300", "too few to tell (40 held out, 8 with the outcome)"],
    ]
    assert "change with the new agent" in render(run)
    assert "at least 50 of them, 5 with the outcome" in page.groups_note


def text_of(run: RunReport) -> str:
    page = owner.page(run)
    assert page is not None
    return "\n".join(page.sentences)


def test_what_simulated_customers_did_in_outcomes_and_money() -> None:
    text = text_of(simulated({"report": {"valuePerOutcome": "12.50", "currency": "EUR"}}))
    assert "Of 1,000 conversations, about 250 (most likely 230 to 270) reach the outcome now" in text
    assert "about 200 (most likely 180 to 220) did before" in text
    assert "That is 50 more, worth 625 EUR more (at 12.50 for an outcome)." in text
    assert "It suggests nothing in 5% of its turns; before, in 10%." in text
    assert "take 60% of its suggestions, as they are or edited; before, 50%" in text


def test_without_a_promotion_nothing_changed() -> None:
    text = text_of(simulated({}, "Reject"))
    assert "the same as at the start" in text
    assert "About 200" in text
    assert "worth" not in text


@pytest.mark.parametrize(
    ("lift", "words"),
    [
        ({}, "about 30 more outcomes per 1,000"),
        ({}, "It is better by all that the log shows"),
        ({"offPolicyLiftLow": -0.01}, "The log cannot tell for sure"),
        (
            {"offPolicyLift": -0.03, "offPolicyLiftLow": -0.05, "offPolicyLiftHigh": -0.01},
            "about 30 fewer outcomes per 1,000 conversations, where late ones count less (−50 to −10)",
        ),
    ],
)
def test_what_a_log_tells(lift: dict[str, float], words: str) -> None:
    text = text_of(logged(**lift))
    assert words in text
    assert "In the log of 10,000 conversations, 196 of 1,000 reach the outcome." in text
    assert "In 25% of the situations it would say what it said before." in text
    assert "It suggests nothing in 10% of them; before, in 20%." in text


def test_votes_are_told_of_the_candidate_that_was_judged() -> None:
    votes = {"iteration": 1, "candidate": 9, "current": 3, "same": 0}
    judged = text_of(logged({"promotion": {"judgement": votes}}))
    assert "preferred the new agent in 9 of 12 situations (75%" in judged
    assert "preferred" not in text_of(logged({"promotion": {"judgement": votes | {"iteration": 2}}}))


def test_kinds_of_suggestions_are_told_by_their_words() -> None:
    before = ["we have red tulips", "We have RED tulips!", "we have red roses and tulips", None, "goodbye then"]
    after = ["ten euros for you", "ten euros, for you!", "we have red tulips", "ten euros for you", "goodbye then"]
    found = owner.changed(before, after)
    by_example = {kind.example: (kind.before, kind.after) for kind in found}
    assert by_example == {
        "ten euros for you": (0.0, pytest.approx(0.6)),
        "(it says nothing)": (0.2, 0.0),
        "we have red tulips": (pytest.approx(0.6), 0.2),
    }
    assert owner.changed(before, before) == []
    assert owner.changed([], after) == []


def test_kinds_are_bounded() -> None:
    before = [f"word{number} other{number}" for number in range(5000)]
    assert len(owner.changed(before, [text + " x" for text in before])) <= 2 * owner.SHOWN_KINDS


def test_it_stands_first_on_the_page() -> None:
    page = render(logged({"discount": "0.95"}))
    assert page.index('id="owner"') < page.index('id="progress"')
    for words in (
        "In plain words",
        "it counts 5% less",
        "By group, in the log",
        "We have green tea",
        "All below is for",
    ):
        assert words in page
    assert 'id="owner"' not in render(RunReport("shop", {}, []))
