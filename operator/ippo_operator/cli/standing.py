"""What a report says first of a run that failed, or that waits for a person: state, reason, remedy and log."""

from collections.abc import Sequence
from typing import Any

from ippo_operator.api.reasons import EXPLANATIONS
from ippo_operator.api.status import LastFailure, Reason

_WELL = {"Pending", "Running", "Succeeded", "RollingOut"}


def standing(
    name: str, state: str, reason: Reason | None, message: str, failure: LastFailure | None, log: Sequence[str] = ()
) -> dict[str, Any] | None:
    """For `write_report`; None of a run that goes on or has ended well.

    Args:
        name: what commands call the run: its name, or its folder.
        state: Failed, Waiting, …
        reason: of that state.
        message: a sentence.
        failure: the last one; its log is named where it is what ended the run.
        log: the last lines of that log, where they are at hand.
    """
    if state in _WELL or reason is None:
        return None
    fields = {"state": state, "reason": str(reason), "message": message}
    fields["remedy"] = EXPLANATIONS[reason].remedy.replace("NAME", name)
    if failure is None or state != "Failed":
        return fields
    stage = f"{failure.stage} of iteration {failure.iteration}, attempt {failure.attempt}"
    return fields | {"stage": stage, "log_command": f"ippo logs {name} --previous", "log": list(log)}
