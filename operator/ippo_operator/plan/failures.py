"""What kind of failure it is, which budget it spends, and whether another attempt is due."""

from datetime import datetime, timedelta

from ippo_operator.api.resource import Retries
from ippo_operator.api.status import MAX_MESSAGE, Budgets, FailureKind, LastFailure, Reason, RunStatus
from ippo_operator.plan.names import MAX_ATTEMPT
from ippo_operator.plan.types import JobFailure

MAX_BACKOFF = 600
_BY_EXIT_CODE: dict[int, tuple[FailureKind, Reason]] = {
    64: ("Spec", Reason.INVALID_SPEC),
    65: ("Data", Reason.INVALID_DATA),
    75: ("TryAgain", Reason.TRY_AGAIN),
    143: ("Disruption", Reason.DISRUPTED),
}
_NEVER_AGAIN: set[FailureKind] = {"Spec", "Data", "Uninformative", "Conflict"}


def classify(failure: JobFailure) -> tuple[FailureKind, Reason]:
    """The budget and the reason of a failed job. A wrong spec stays wrong even if the job was disrupted too."""
    known = _BY_EXIT_CODE.get(failure.exit_code) if failure.exit_code is not None else None
    if known is not None and known[0] in _NEVER_AGAIN:
        return known
    if failure.disrupted:
        return "Disruption", Reason.DISRUPTED
    return known or ("Crash", Reason.USER_CODE_FAILED)


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
        message=message[:MAX_MESSAGE],
        time=now,
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


def final(status: RunStatus, retries: Retries) -> tuple[Reason, str] | None:
    """Why the stage is never tried again, in a reason and a sentence; None if it may be."""
    failure = pending(status)
    if failure is None:
        return None
    if failure.kind in _NEVER_AGAIN:
        return failure.reason, failure.message
    field, spent, limit = _account(status.budgets, retries, failure.kind)
    if spent > limit:
        text = f"{failure.stage} of iteration {failure.iteration} failed {spent} times, spec.retries.{field} is {limit}"
        return Reason.BUDGET_EXHAUSTED, f"{text}; raise it to go on. Last: {failure.message}"[:MAX_MESSAGE]
    if status.attempt >= MAX_ATTEMPT:
        return Reason.BUDGET_EXHAUSTED, f"{failure.stage} was attempted {status.attempt} times. Last: {failure.message}"
    return None


def retry_at(status: RunStatus, retries: Retries) -> datetime | None:
    """When the next attempt is due after a failure; None if nothing has to be waited for."""
    failure = pending(status)
    if failure is None or failure.kind == "Disruption":
        return None
    _, spent, _ = _account(status.budgets, retries, failure.kind)
    seconds = min(MAX_BACKOFF, retries.backoff_seconds * 2 ** max(0, spent - 1))
    return failure.time + timedelta(seconds=seconds)


def _account(budgets: Budgets, retries: Retries, kind: FailureKind) -> tuple[str, int, int]:
    """The field, what was spent and what may be, of the budget of a failure that can be tried again."""
    if kind == "TryAgain":
        return "tryAgain", budgets.try_again, retries.try_again
    if kind == "Disruption":
        return "disruptions", budgets.disruptions, retries.disruptions
    return "crashes", budgets.crashes, retries.crashes
