"""Promotion by hand: a candidate that the gate let pass waits until the spec names its iteration."""

from ippo_operator.api.resource import RunSpec
from ippo_operator.api.status import IterationStatus, RunStatus


def by_hand(spec: RunSpec) -> bool:
    """Whether a human has the last word: also on what nobody could try on customers, not even on simulated ones."""
    return spec.promotion.mode == "Manual" or spec.collect.simulate is None


def awaited(status: RunStatus) -> IterationStatus | None:
    """The iteration whose candidate waits for a human, if that is what the run is at."""
    last = status.iterations[-1] if status.iterations else None
    waits = last is not None and last.decision is not None and last.promoted is None
    return last if waits else None


def answer(spec: RunSpec, iteration: IterationStatus) -> bool | None:
    """Whether the candidate is promoted; None as long as nobody said so."""
    if spec.promotion.reject == iteration.iteration:
        return False
    return True if spec.promotion.approve == iteration.iteration else None


def judgement(spec: RunSpec, iteration: IterationStatus) -> str | None:
    """What people said of the candidate's suggestions; None where nobody judged them."""
    votes = spec.promotion.judgement
    return votes.in_words() if votes is not None and votes.iteration == iteration.iteration else None


def question(spec: RunSpec, iteration: IterationStatus) -> str:
    """What a human is asked."""
    number = iteration.iteration
    gate = iteration.decision.reason if iteration.decision is not None else ""
    votes = judgement(spec, iteration)
    return (
        f"the candidate of iteration {number} waits for spec.promotion.approve: {number} or reject: {number}. "
        f"The gate: {gate}" + (f" Judged: {votes}." if votes else "")
    )
