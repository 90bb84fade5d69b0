"""The gate: promote, reject, or say that one cannot tell. It sees outcomes only, never an exact solution."""

from dataclasses import dataclass

from ippo_trainer.contract.params import Gate
from ippo_trainer.contract.spec import Decision
from ippo_trainer.stats.intervals import Interval

_UNITS = {"Value": "discounted outcomes per conversation", "Success": "outcomes per conversation"}

MOST_TIMES = 100
"""Beyond so many times the conversations, a gate is not told to ask for more."""


@dataclass(frozen=True, slots=True)
class GateInputs:
    """What the gate may look at."""

    lift: Interval
    """Candidate minus current policy, in the gate's metric, at the gate's confidence."""
    acceptance: float | None
    """Share of the candidate's suggestions accepted or edited; None where there was none to react to."""
    kl: float | None
    """Mean KL(candidate || current) in nats per suggestion; None where nothing was suggested."""
    evidence: str
    """Where the lift comes from, e.g. `2000 paired conversations`."""
    measured: str = ""
    """What the lift is of, with its unit, where it is not the gate's metric on conversations."""


def decide(gate: Gate, inputs: GateInputs) -> Decision:
    """Applies the rules of `gate`; guard rails come before the lift, and the reason carries the figures.

    An inconclusive lift is promoted only where `gate.on_inconclusive` says so; otherwise the outcome is Inconclusive,
    which keeps the current policy and lets the loop tell it from a candidate that was measured to be worse.
    """
    broken = _broken_guard_rail(gate, inputs)
    if broken:
        return Decision(outcome="Reject", reason=broken)
    lift, least = inputs.lift, float(gate.min_lift)
    figures = (
        f"{inputs.measured or gate.metric} changes by {lift.estimate:+.4f} "
        f"{'' if inputs.measured else _UNITS[gate.metric] + ' '}"
        f"({float(gate.confidence):.0%} interval {lift.low:+.4f} to {lift.high:+.4f}, {inputs.evidence})"
    )
    if lift.low > least:
        return Decision(outcome="Promote", reason=f"{figures}; the lower bound is above minLift {gate.min_lift}.")
    if lift.high <= least:
        return Decision(outcome="Reject", reason=f"{figures}; the upper bound is not above minLift {gate.min_lift}.")
    undecided = f"{figures}; the interval contains minLift {gate.min_lift}"
    if gate.on_inconclusive == "Promote":
        return Decision(outcome="Promote", reason=f"{undecided}; onInconclusive is Promote.")
    return Decision(outcome="Inconclusive", reason=f"{undecided}; {_wanting(lift, least)}.")


def _wanting(lift: Interval, least: float) -> str:
    """How many conversations would decide, were the lift just as it was measured: intervals narrow with their root."""
    gap = lift.estimate - least
    half = lift.estimate - lift.low if gap > 0 else lift.high - lift.estimate
    if abs(gap) * MOST_TIMES**0.5 < half:
        return f"the lift is so near to it that even {MOST_TIMES} times as many conversations would not decide"
    return f"about {max(half / abs(gap), 1.05) ** 2:.1f} times as many conversations would decide on such a lift"


def _broken_guard_rail(gate: Gate, inputs: GateInputs) -> str | None:
    if gate.min_acceptance is not None:
        if inputs.acceptance is None:
            return (
                f"No suggestion was shown to anybody, so acceptance cannot reach minAcceptance {gate.min_acceptance}."
            )
        if inputs.acceptance < float(gate.min_acceptance):
            return (
                f"{inputs.acceptance:.1%} of the suggestions were accepted or edited, "
                f"less than minAcceptance {float(gate.min_acceptance):.1%}."
            )
    if gate.max_kl is not None and inputs.kl is not None and inputs.kl > float(gate.max_kl):
        return f"The KL from the current policy is {inputs.kl:.2f} nats per suggestion, more than maxKl {gate.max_kl}."
    return None
