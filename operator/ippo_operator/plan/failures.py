"""What kind of failure it is, which budget it spends, and whether another attempt is due."""

from datetime import datetime, timedelta

from ippo_trainer.contract.digests import digest_of
from ippo_trainer.contract.errors import BadDataError, BadSpecError, StageError, StoppedError, TryAgainError
from ippo_trainer.contract.lines import cut
from ippo_trainer.contract.spec import MAX_ATTEMPT, Digest
from ippo_trainer.contract.stages import StageName

from ippo_operator.api.reasons import Reason
from ippo_operator.api.resource import MAX_BACKOFF, Retries, RunSpec
from ippo_operator.api.status import MAX_MESSAGE, Budgets, FailureKind, LastFailure, RunStatus
from ippo_operator.plan import results
from ippo_operator.plan.types import JobFailure

_KINDS: dict[type[StageError], FailureKind] = {
    BadSpecError: "Spec",
    BadDataError: "Data",
    TryAgainError: "TryAgain",
    StoppedError: "Disruption",
}
_BY_EXIT_CODE = {error.exit_code: (kind, Reason(error.reason)) for error, kind in _KINDS.items()}
_FINAL_KINDS: set[FailureKind] = {"Spec", "Data", "Uninformative", "Conflict"}
_AT_ONCE = 3
"""So many disruptions of a stage bring no wait; more of them hardly end by themselves."""
_MORE = "It collects more once spec.fitQ.onUninformative is CollectMore and maxCollections (3 if left out) allows it."
_UNLESS = "Tried again once spec.retries.requested, spec.pods or the address in spec.artifacts.s3 changes."


def classify(failure: JobFailure) -> tuple[FailureKind, Reason]:
    """The budget and the reason of a failed job. A wrong spec stays wrong even if the job was disrupted too."""
    by_code = _BY_EXIT_CODE.get(failure.exit_code) if failure.exit_code is not None else None
    if by_code is not None and by_code[0] in _FINAL_KINDS:
        return by_code
    if failure.disrupted:
        return "Disruption", Reason.DISRUPTED
    return by_code or ("Crash", Reason.USER_CODE_FAILED)


def retry_digest(spec: RunSpec, stage: StageName) -> Digest:
    """Of what people can change to have a stage tried again, whatever it failed of."""
    pods = (spec.pods.common, spec.pods.of(stage))
    sections = [section.model_dump(mode="json", by_alias=True, exclude_none=True) for section in pods]
    return digest_of({"pods": sections, "requested": spec.retries.requested or 0, "store": spec.store_address()})


def record(
    status: RunStatus, kind: FailureKind, reason: Reason, exit_code: int | None, message: str, now: datetime
) -> RunStatus:
    """The status after the active attempt failed: the failure is noted and its budget spent."""
    if status.active is None or status.stage is None:
        raise ValueError("no attempt is active")
    failure = LastFailure(
        iteration=status.iteration,
        stage=status.stage,
        attempt=status.attempt,
        job_name=status.active.job_name,
        kind=kind,
        reason=reason,
        exit_code=exit_code,
        message=message,
        time=now,
        retry_digest=status.active.retry_digest,
    )
    return status.model_copy(update={"active": None, "last_failure": failure, "budgets": _spend(status.budgets, kind)})


def _spend(budgets: Budgets, kind: FailureKind) -> Budgets:
    return budgets.model_copy(
        update={
            "try_again": budgets.try_again + (kind == "TryAgain"),
            "crashes": budgets.crashes + (kind == "Crash"),
            "disruptions": budgets.disruptions + (kind == "Disruption"),
        }
    )


def pending(status: RunStatus) -> LastFailure | None:
    """The failure of the latest attempt of the stage that is due, if that is how it ended."""
    failure = status.last_failure
    if failure is None or status.active is not None:
        return None
    at = (status.iteration, status.stage, status.attempt)
    return failure if (failure.iteration, failure.stage, failure.attempt) == at else None


def final(status: RunStatus, spec: RunSpec) -> tuple[Reason, str] | None:
    """Why the stage is not tried again, in a reason and a sentence; None if it is."""
    failure = pending(status)
    if failure is None:
        return None
    if failure.kind == "Uninformative":
        if results.may_collect_more(status, spec):
            return None
        message = cut(failure.message, MAX_MESSAGE - len(_MORE) - 2)
        return failure.reason, f"{message.rstrip('.')}. {_MORE}"
    if status.attempt >= MAX_ATTEMPT:
        text = f"{failure.stage} was attempted {status.attempt} times. Last: {failure.message}"
        return Reason.BUDGET_EXHAUSTED, text
    if _mended(failure, spec):
        return None
    if failure.kind in _FINAL_KINDS:
        message = cut(failure.message, MAX_MESSAGE - len(_UNLESS) - 2)
        return failure.reason, f"{message.rstrip('.')}. {_UNLESS}"
    field, spent, limit = _account(status.budgets, spec.retries, failure.kind)
    if spent > limit:
        text = f"{failure.stage} of iteration {failure.iteration} failed {spent} times, spec.retries.{field} is {limit}"
        text += f"; raise it to go on, or change spec.pods. Last: {failure.message}"
        return Reason.BUDGET_EXHAUSTED, text
    return None


def can_be_asked_again(status: RunStatus, spec: RunSpec) -> bool:
    """Whether the stage stalled, and another attempt may come to something else."""
    failure = pending(status)
    return failure is not None and failure.kind != "Uninformative" and final(status, spec) is not None


def retry_at(status: RunStatus, spec: RunSpec) -> datetime | None:
    """When the next attempt is due after a failure; None if nothing has to be waited for."""
    failure = pending(status)
    if failure is None or failure.kind == "Uninformative" or _mended(failure, spec):
        return None
    _, spent, _ = _account(status.budgets, spec.retries, failure.kind)
    if failure.kind == "Disruption":
        spent -= _AT_ONCE
        if spent <= 0:
            return None
    first = spec.retries.backoff_seconds
    seconds = min(max(MAX_BACKOFF, first), first * 2 ** max(0, spent - 1))
    return failure.time + timedelta(seconds=seconds)


def _mended(failure: LastFailure, spec: RunSpec) -> bool:
    """Somebody changed what the attempt was made from, or asked for another one, since it began."""
    return failure.retry_digest not in {None, retry_digest(spec, failure.stage)}


def _account(budgets: Budgets, retries: Retries, kind: FailureKind) -> tuple[str, int, int]:
    """The field, what was spent and what may be, of the budget of a failure that can be tried again."""
    if kind == "TryAgain":
        return "tryAgain", budgets.try_again, retries.try_again
    if kind == "Disruption":
        return "disruptions", budgets.disruptions, retries.disruptions
    return "crashes", budgets.crashes, retries.crashes
