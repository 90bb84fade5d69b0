"""A/B tests in a report: what the status says of them, whoever wrote it."""

from typing import Any

import pytest
from ippo_trainer.report import owner, words
from ippo_trainer.report.model import Cycle, Decision, RunReport
from ippo_trainer.report.tested import with_tests

FIGURES = {"evaluate": {"heldOutQLift": 0.05, "offPolicyLift": 0.1, "offPolicyLiftLow": 0.01, "offPolicyLiftHigh": 0.2}}
SIDES = {
    "candidate": {"conversations": 1000, "outcomes": 160},
    "control": {"conversations": 9000, "outcomes": 1000},
    **{"lift": 0.0489, "low": 0.0104, "high": 0.0923},
}


def cycle(canary: Any, promoted: bool | None) -> Cycle:
    """A cycle of a live run, as a report has it."""
    alone = Cycle(1, metrics=FIGURES, decision=Decision(outcome="Promote", reason="Q hopes for more."))
    row: dict[str, Any] = {"iteration": 1, "canary": canary}
    if promoted is not None:
        row["promoted"] = promoted
    return with_tests([alone], {"status": {"iterations": [{"iteration": 0}, row]}})[0]


@pytest.mark.parametrize(
    ("promoted", "word", "headline"),
    [
        (True, "Promoted", "proved better"),
        (False, "Not promoted", "not promoted"),
        (None, "Under test", "is in an A/B"),
    ],
)
def test_what_the_test_said_is_the_word_on_the_cycle(promoted: bool | None, word: str, headline: str) -> None:
    reason = "" if promoted is None else "the lower bound is above 0."
    tested = cycle(SIDES | {"reason": reason}, promoted)
    run = RunReport("r", {}, [Cycle(0), tested])
    assert words.verdict(tested, run.promoted(tested)) == word
    assert headline in words.headline(run)
    said = reason or "160 outcomes of 1,000 conversations of the candidate"
    assert said in words.explain(tested)
    assert words.explain(tested).endswith("The forecast: Q hopes for more.")
    assert said in words.subline(run)
    page = owner.page(run)
    assert page is not None
    assert "met no customer" not in " ".join(page.sentences)


@pytest.mark.parametrize("status", [None, [], {}, {"iterations": None}, {"iterations": [3, {"iteration": "x"}, {}]}])
def test_without_a_test_or_with_a_strange_status_nothing_changes(status: Any) -> None:
    alone = Cycle(1, metrics=FIGURES, decision=Decision(outcome="Promote", reason="Q hopes for more."))
    assert with_tests([alone], {"status": status}) == [alone]
    assert words.verdict(alone, False) == "For a human"
