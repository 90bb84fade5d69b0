"""What a report says first of a run that failed, or that waits for a person: state, reason, remedy and log."""

from collections.abc import Sequence
from typing import Any

from ippo_operator.cli.logs.attempts import Attempt
from ippo_operator.cli.run_view import RunView

_WELL = {"Pending", "Running", "Succeeded"}


def standing(run: RunView, log: Sequence[str] = ()) -> dict[str, Any] | None:
    """For `write_report`; None of a run that goes on or has ended well.

    Args:
        run: finished or not.
        log: the last lines of the log of the last failure, where they are at hand.
    """
    if run.phase in _WELL or run.reason is None:
        return None
    fields: dict[str, Any] = {"state": run.phase, "reason": str(run.reason), "message": run.message}
    fields["remedy"] = run.reason.remedy_of(run.argument)
    failure = run.status.last_failure
    if failure is None or run.phase != "Failed":
        return fields
    attempt = Attempt.of(failure.iteration, failure.stage, failure.attempt)
    return fields | {"stage": str(attempt), "log_command": f"ippo logs {run.argument} --previous", "log": list(log)}
