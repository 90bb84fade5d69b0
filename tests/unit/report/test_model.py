"""What the report makes of figures: whose measurement counts, what old releases wrote, what is open."""

from typing import Any

import pytest
from ippo_trainer.contract.spec import Decision
from ippo_trainer.report.model import CalibrationFigures, Cycle, Evaluation, RunReport
from ippo_trainer.report.training_views import open_conversations, q_table
from ippo_trainer.report.views import verdicts


def score(digest: str, success: float, **more: Any) -> dict[str, Any]:
    value = {"estimate": success, "low": success - 0.01, "high": success + 0.01}
    return {"digest": digest, "success": value, "value": value, **more}


def cycle(iteration: int, candidate: dict[str, Any], current: dict[str, Any], outcome: Any = "Promote") -> Cycle:
    evaluation = Evaluation.model_validate({"candidate": candidate, "current": current})
    return Cycle(iteration, evaluation=evaluation, decision=Decision(outcome=outcome, reason="so"))


def test_a_policy_is_measured_by_the_cycle_that_did_not_choose_it() -> None:
    one = cycle(1, score("b", 0.30), score("a", 0.10))
    two = cycle(2, score("c", 0.25), score("b", 0.22), "Reject")
    three = cycle(3, score("d", 0.26), score("b", 0.24))
    run = RunReport("r", {}, [one, two, three])
    estimates = [found.success.estimate for found in map(run.deployed, run.cycles) if found is not None]
    assert estimates == [0.22, 0.24, 0.26]  # the last one has only its own gate's measurement
    assert run.before is not None
    assert run.before.success.estimate == 0.10


def test_without_digests_a_cycle_measures_itself() -> None:
    run = RunReport("r", {}, [cycle(1, score("", 0.3), score("", 0.1)), cycle(2, score("", 0.4), score("", 0.2))])
    assert [found.success.estimate for found in map(run.deployed, run.cycles) if found] == [0.3, 0.4]


@pytest.mark.parametrize(
    ("calibration", "cells"),
    [
        ({"eps_q": 0.0074}, ["0.0074", "0.78", "–"]),  # release 0.2
        (
            {
                "miscalibration": {"estimate": 0.0074, "low": 0.0, "high": 0.031},
                "exact": {
                    "suggestions": {"error": 0.026, "correlation": 0.82},
                    "intents": {"error": 0.061, "correlation": 0.65},
                },
            },
            ["0.0074 (0.0000 to 0.0310)", "0.82, error 0.026", "0.65, error 0.061"],
        ),
        (
            {"exact": {"made": {"error": 0.026}, "every": {"error": 0.061, "correlation": 0.65}}},  # before 0.3
            ["–", "–, error 0.026", "0.65, error 0.061"],
        ),
    ],
)
def test_the_error_of_q_by_either_release(calibration: dict[str, Any], cells: list[str]) -> None:
    fit = CalibrationFigures.model_validate(calibration)
    metrics = {"fit-q": {"advantageCorrelation": 0.78}}
    table = q_table(RunReport("r", {}, [Cycle(1, calibration=fit, metrics=metrics)]))
    assert table is not None
    assert table.rows[0][-3:] == cells


def test_open_conversations_are_told() -> None:
    censoring = {"conversations": 200, "censored": 50, "unseen": 0.1, "successBounds": {"low": 0.1, "high": 0.35}}
    fit = CalibrationFigures.model_validate({"censoring": censoring})
    text = open_conversations(RunReport("r", {}, [Cycle(1, calibration=fit)]))
    assert "50 of 200" in text
    assert "between 10.0% and 35.0%" in text
    assert "10.0% end where nobody could see it" in text
    assert open_conversations(RunReport("r", {}, [Cycle(1, calibration=CalibrationFigures())])) == ""
    bounds = {"censored": 7, "successBounds": {"low": 0.2, "high": 0.4}}
    (verdict,) = verdicts(RunReport("r", {}, [cycle(1, score("b", 0.3, **bounds), score("a", 0.1))]))
    assert any("7 conversations censored: success between 20.0% and 40.0%" in fact for fact in verdict.facts)
