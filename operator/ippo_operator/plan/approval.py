"""The last word on a candidate that the gate let pass: an A/B test's, or a human's, whose spec names its iteration."""

from ippo_trainer.contract.spec import Outcome

from ippo_operator.api.resource import RunSpec
from ippo_operator.api.status import IterationStatus, RunStatus


def tested(spec: RunSpec) -> bool:
    """Whether candidates go through an A/B test on live conversations."""
    return spec.collect.logged is not None and spec.serve is not None and spec.serve.strategy == "Canary"


def by_hand(spec: RunSpec) -> bool:
    """Whether a human has the last word: also on what nobody tried on customers, not even on simulated ones."""
    return spec.promotion.mode == "Manual" or (spec.collect.simulate is None and not tested(spec))


def awaited(status: RunStatus) -> IterationStatus | None:
    """The iteration whose candidate waits for a human or an A/B test, if that is what the run is at."""
    last = status.iterations[-1] if status.iterations else None
    waits = last is not None and last.decision is not None and last.promoted is None
    return last if waits else None


def in_test(spec: RunSpec, iteration: IterationStatus) -> bool:
    """Whether the candidate is in its A/B test, or about to be."""
    return tested(spec) and (iteration.canary is None or iteration.canary.finished_at is None)


def answer(spec: RunSpec, iteration: IterationStatus) -> bool | None:
    """Whether a human wants the candidate promoted; None as long as nobody said so."""
    if spec.promotion.reject == iteration.iteration:
        return False
    return True if spec.promotion.approve == iteration.iteration else None


def verdict(spec: RunSpec, iteration: IterationStatus) -> bool | None:
    """Whether the candidate is promoted, by a human or by the A/B test; None as long as that is open."""
    hand, canary = answer(spec, iteration), iteration.canary
    if hand is not None or canary is None or canary.finished_at is None:
        return hand
    if canary.outcome != "Promote":
        return False
    return None if by_hand(spec) else True


def settled_as(iteration: IterationStatus) -> Outcome | None:
    """How the gate, or the A/B test after it, left a candidate that is settled; None where a human refused it."""
    decision, canary = iteration.decision, iteration.canary
    if iteration.promoted or decision is None:
        return "Promote"
    outcome = decision.outcome if canary is None else canary.outcome
    return None if outcome == "Promote" else outcome


def judgement(spec: RunSpec, iteration: IterationStatus) -> str | None:
    """What people said of the candidate's suggestions; None where nobody judged them."""
    votes = spec.promotion.judgement
    return votes.in_words() if votes is not None and votes.iteration == iteration.iteration else None


def evidence(iteration: IterationStatus) -> str:
    """The latest word on the candidate: the A/B test's, or else the gate's."""
    if iteration.canary is not None and iteration.canary.reason:
        return iteration.canary.reason
    return iteration.decision.reason if iteration.decision is not None else ""


def question(spec: RunSpec, iteration: IterationStatus) -> str:
    """What a human is asked."""
    number = iteration.iteration
    gate = iteration.decision.reason if iteration.decision is not None else ""
    votes, canary = judgement(spec, iteration), iteration.canary
    return (
        f"the candidate of iteration {number} waits for spec.promotion.approve: {number} or reject: {number}. "
        + (f"The A/B test: {canary.reason} " if canary is not None else "")
        + f"The gate: {gate}"
        + (f" Judged: {votes}." if votes else "")
    )
