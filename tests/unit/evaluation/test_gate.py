"""The gate's rules, with figures in every reason."""

import pytest
from ippo_trainer.contract.params import Gate
from ippo_trainer.evaluation.gate import GateInputs, decide
from ippo_trainer.stats.intervals import Interval


def inputs(low: float, high: float, acceptance: float | None = 0.9, kl: float | None = 0.5) -> GateInputs:
    return GateInputs(Interval((low + high) / 2, low, high), acceptance, kl, "2000 paired conversations")


@pytest.mark.parametrize(
    ("low", "high", "min_lift", "outcome"),
    [
        (0.01, 0.05, "0", "Promote"),
        (0.01, 0.05, "0.02", "Inconclusive"),
        (0.0, 0.05, "0", "Inconclusive"),
        (-0.02, 0.01, "0", "Inconclusive"),
        (-0.05, -0.01, "0", "Reject"),
        (-0.05, 0.0, "0", "Reject"),
        (-0.005, 0.01, "-0.01", "Promote"),
    ],
)
def test_the_interval_decides(low: float, high: float, min_lift: str, outcome: str) -> None:
    decision = decide(Gate(min_lift=min_lift), inputs(low, high))
    assert decision.outcome == outcome
    assert f"{low:+.4f} to {high:+.4f}" in decision.reason
    assert f"minLift {min_lift}" in decision.reason
    assert "2000 paired conversations" in decision.reason


def test_inconclusive_can_be_promoted_but_a_measured_loss_cannot() -> None:
    gate = Gate(on_inconclusive="Promote")
    assert decide(gate, inputs(-0.01, 0.01)).outcome == "Promote"
    assert "onInconclusive" in decide(gate, inputs(-0.01, 0.01)).reason
    assert decide(gate, inputs(-0.03, -0.01)).outcome == "Reject"


def test_guard_rails_come_first() -> None:
    gate = Gate(min_acceptance="0.6", max_kl="2.5")
    low_acceptance = decide(gate, inputs(0.1, 0.2, acceptance=0.55))
    assert low_acceptance.outcome == "Reject"
    assert "55.0%" in low_acceptance.reason
    assert "60.0%" in low_acceptance.reason
    far = decide(gate, inputs(0.1, 0.2, kl=3.25))
    assert far.outcome == "Reject"
    assert "3.25" in far.reason
    assert decide(gate, inputs(0.1, 0.2)).outcome == "Promote"


def test_a_policy_that_never_suggests_cannot_pass_the_acceptance_guard() -> None:
    assert decide(Gate(min_acceptance="0.1"), inputs(0.1, 0.2, acceptance=None, kl=None)).outcome == "Reject"
    assert decide(Gate(max_kl="1"), inputs(0.1, 0.2, acceptance=None, kl=None)).outcome == "Promote"


def test_reasons_fit_the_contract() -> None:
    gate = Gate(min_lift="-123456789.123456789012", confidence="0.9512345", on_inconclusive="Promote")
    assert len(decide(gate, inputs(-0.5, 0.5)).reason) <= 512


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (-0.01, 0.03, "about 4.0 times as many"),
        (-0.03, 0.01, "about 4.0 times as many"),
        (-0.0001, 0.05, "about 1.1 times as many"),
        (-0.01, 0.0101, "even 100 times as many"),
        (-0.01, 0.01, "even 100 times as many"),
    ],
)
def test_an_inconclusive_lift_says_how_many_conversations_would_decide(low: float, high: float, words: str) -> None:
    decision = decide(Gate(), inputs(low, high))
    assert decision.outcome == "Inconclusive"
    assert words in decision.reason


def test_so_many_conversations_decide_as_often_as_not() -> None:
    """With the asked-for number, the interval of a lift as it was measured just reaches minLift."""
    lift = inputs(-0.01, 0.03)
    half = (0.03 - -0.01) / 2 / 4.0**0.5
    assert decide(Gate(), inputs(0.01 - half + 1e-6, 0.01 + half)).outcome == "Promote"
    assert decide(Gate(), lift).outcome == "Inconclusive"
