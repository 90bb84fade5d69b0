"""Conditions, all of them from the first visit on; kstatus, Argo CD and Flux read them."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from ippo_trainer.contract.spec import Outcome

from ippo_operator.api.reasons import ConditionType, Reason
from ippo_operator.api.resource import IterativePPORun, RunSpec
from ippo_operator.api.status import Condition, RunStatus, Truth
from ippo_operator.plan import approval, canary, serving
from ippo_operator.plan.phase import Phase


class ConditionRow(NamedTuple):
    """A condition without its times."""

    kind: ConditionType
    truth: Truth
    reason: Reason
    message: str


def conditions(run: IterativePPORun, status: RunStatus, phase: Phase, now: datetime) -> tuple[Condition, ...]:
    """The run's conditions; a condition whose truth did not change keeps its transition time."""
    return tuple(_condition(row, run.metadata.generation, status, now) for row in _rows(run.spec, status, phase))


def refusal(reason: Reason, message: str) -> tuple[ConditionRow, ...]:
    """Of a run that cannot be worked on although the API server took it; its other conditions stay as they were."""
    kinds: tuple[ConditionType, ...] = ("Accepted", "Reconciling", "Stalled", "Ready")
    return tuple(ConditionRow(kind, "True" if kind == "Stalled" else "False", reason, message) for kind in kinds)


def _condition(row: ConditionRow, generation: int, status: RunStatus, now: datetime) -> Condition:
    kind, truth, reason, message = row
    before = status.condition(kind)
    since = before.last_transition_time if before is not None and before.status == truth else now
    return Condition(
        type=kind,
        status=truth,
        reason=reason,
        message=message,
        observed_generation=generation,
        last_transition_time=since,
    )


def _rows(spec: RunSpec, status: RunStatus, phase: Phase) -> Iterator[ConditionRow]:
    def truth(holds: bool) -> Truth:
        return "True" if holds else "False"

    def cause(holds: bool) -> tuple[Reason, str]:
        return (phase.reason, phase.message) if holds else (Reason.AS_EXPECTED, "")

    invalid, stalled, suspended = phase.name == "Invalid", phase.stalled, phase.name == "Suspended"
    working = not phase.ended and not suspended
    yield ConditionRow("Accepted", truth(not invalid), *cause(invalid))
    yield ConditionRow("Reconciling", truth(working), phase.reason, phase.message)
    yield ConditionRow("Stalled", truth(stalled), *cause(stalled))
    yield ConditionRow("Suspended", truth(suspended), *cause(suspended or phase.name == "Suspending"))
    queued = working and phase.reason == Reason.WAITING_FOR_QUOTA
    yield ConditionRow("Queued", truth(queued), *cause(queued))
    yield _succeeded_row(status, phase)
    yield promoted_row(spec, status)
    serving_trouble = serving.trouble(status.serving) if phase.name in {"Running", "Waiting"} else None
    yield ConditionRow("Ready", truth(phase.name == "Succeeded"), *(serving_trouble or (phase.reason, phase.message)))


def _succeeded_row(status: RunStatus, phase: Phase) -> ConditionRow:
    """All iterations and the first roll-out after them are done; what becomes of the servers then is Ready's matter."""
    if phase.done is not None and (phase.ended or status.is_true("Succeeded")):
        return ConditionRow("Succeeded", "True", *phase.done)
    return ConditionRow("Succeeded", "False" if phase.ended else "Unknown", phase.reason, phase.message)


def promoted_row(spec: RunSpec, status: RunStatus) -> ConditionRow:
    """The gate's latest answer."""
    decided = next((row for row in reversed(status.iterations) if row.decision is not None), None)
    if decided is None or decided.decision is None:
        before = status.condition("Promoted")
        if before is not None and status.completed_iterations:  # the history is shorter than that
            return ConditionRow("Promoted", before.status, before.reason, before.message)
        return ConditionRow("Promoted", "Unknown", Reason.NO_DECISION_YET, "no candidate was evaluated so far")
    if decided.promoted is None and approval.in_test(spec, decided):
        _, text = canary.progress(decided, status)
        return ConditionRow("Promoted", "Unknown", Reason.CANARY_RUNNING, text)
    if decided.promoted is None:
        return ConditionRow("Promoted", "Unknown", Reason.AWAITING_APPROVAL, approval.question(spec, decided))
    message = f"iteration {decided.iteration}: {approval.evidence(decided)}"
    if decided.promoted:
        return ConditionRow("Promoted", "True", Reason.PROMOTED, message)
    outcome = approval.settled_as(decided)
    if outcome is None and decided.canary is None:
        text = f"iteration {decided.iteration}: spec.promotion.reject names it. The gate: {decided.decision.reason}"
        return ConditionRow("Promoted", "False", Reason.NOT_APPROVED, text)
    reasons = _BY_GATE if decided.canary is None else _BY_CANARY
    return ConditionRow("Promoted", "False", reasons[outcome] if outcome else Reason.NOT_APPROVED, message)


_BY_GATE: dict[Outcome, Reason] = {"Reject": Reason.GATE_FAILED, "Inconclusive": Reason.GATE_INCONCLUSIVE}
_BY_CANARY: dict[Outcome, Reason] = {"Reject": Reason.CANARY_FAILED, "Inconclusive": Reason.CANARY_INCONCLUSIVE}
