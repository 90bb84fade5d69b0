"""Numbers and findings in words."""

import pytest
from ippo_trainer.contract.spec import Decision
from ippo_trainer.report import words
from ippo_trainer.report.model import CalibrationFigures, Cycle, Estimate, RunReport


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.28149, "28.1%"),
        (0, "0.0%"),
        (0.00001, "<0.1%"),
        (-3.402, "−340%"),
        (-0.02, "−2.0%"),
        (None, "–"),
        (float("nan"), "–"),
        (1, "100.0%"),
    ],
)
def test_percent(share: float | None, text: str) -> None:
    assert words.percent(share) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.2310, "0.231"),
        (-0.5, "−0.500"),
        (0, "0.000"),
        (1e-5, "1.0e−5"),
        (12.34, "12.3"),
        (123456, "123,456"),
        (None, "–"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert words.number(value) == text


def test_intervals_and_lists() -> None:
    assert words.interval(Estimate(estimate=0.2, low=0.1, high=0.3), True) == "20.0% (10.0 to 30.0%)"
    assert words.interval(Estimate(estimate=0.2)) == "0.200"
    assert words.interval(None) == "–"
    assert words.listed(["a"]) == "a"
    assert words.listed(["a", "b", "c"]) == "a, b and c"
    assert words.count(1, "cycle") == "1 cycle"
    assert words.count(2000, "cycle") == "2,000 cycles"


@pytest.mark.parametrize(("low", "phrase"), [(-0.02, "may know nothing"), (0.02, "knows more than the average")])
def test_skill_says_what_its_interval_means(low: float, phrase: str) -> None:
    skill = Estimate(estimate=0.05, low=low, high=0.1)
    assert phrase in words.skill_words(CalibrationFigures(skill=skill))


def test_a_q_that_is_worse_than_a_constant_is_called_so() -> None:
    text = words.skill_words(CalibrationFigures(skill=Estimate(estimate=-3.4, low=-5.5, high=-1.3)))
    assert "no better than a constant: its skill is −340%" in text


@pytest.mark.parametrize(
    ("slope", "skill", "phrase"),
    [
        ((0.9, 0.4, 1.4), (0.05, -0.02, 0.1), "Q knows more than the average outcome: where Q promises a point more"),
        ((0.3, 0.15, 0.46), (-0.087, -0.2, 0.03), "Q knows more than the average outcome"),
        ((0.3, -0.1, 0.7), (0.05, 0.01, 0.1), "Q may know nothing"),
        ((-3.0, -4.0, -2.0), (-0.1, -0.2, 0.1), "that interval does not lie above zero"),
        ((0.3, 0.15, 0.46), (-0.5, -0.7, -0.3), "A constant predicts better than Q, which exaggerates"),
    ],
)
def test_the_slope_decides_and_skill_forbids(
    slope: tuple[float, float, float], skill: tuple[float, float, float], phrase: str
) -> None:
    names = ("estimate", "low", "high")
    figures = [Estimate(**dict(zip(names, values, strict=True))) for values in (slope, skill)]
    assert phrase in words.skill_words(CalibrationFigures(slope=figures[0], skill=figures[1]))


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("greedy-2", "2 steps of exact policy iteration"),
        ("filtered-bc-1", "1 round of cloning the successes, infinite data"),
        ("soft-0.03-2", "2 steps of exact policy iteration with KL weight 0.03"),
        ("optimum", "the best possible policy"),
        ("somebody-elses", ""),
    ],
)
def test_reference_policies_are_explained(name: str, meaning: str) -> None:
    assert words.reference_words(name) == meaning


def test_long_messages_are_cut_and_say_so() -> None:
    assert words.clip("x" * 1201) == "x" * 1200 + "… (1 more characters)"


def test_a_run_of_a_log_alone_says_what_the_log_tells_and_who_decides() -> None:
    figures = {"heldOutQLift": 0.05}
    for name, value in (("offPolicyValue", 0.196), ("offPolicyValueCurrent", 0.027)):
        figures |= {name: value, f"{name}Low": value - 0.02, f"{name}High": value + 0.02}
    cycle = Cycle(1, metrics={"evaluate": figures}, decision=Decision(outcome="Promote", reason="better"))
    run = RunReport("r", {}, [Cycle(0), cycle])
    assert words.headline(run) == "The candidate promises more than the policy before it."
    assert "worth 0.196 (0.176 to 0.216), with the policy before it 0.027 (0.007 to 0.047)" in words.subline(run)
    assert words.verdict(cycle, False) == "For a human"
    poor = Cycle(1, metrics={"evaluate": figures}, decision=Decision(outcome="Reject", reason="worse"))
    assert words.headline(RunReport("r", {}, [Cycle(0), poor])) == "The candidate promises no more."
    assert words.verdict(poor, False) == "Rejected"
