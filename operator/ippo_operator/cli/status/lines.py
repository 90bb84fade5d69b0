"""A run in words and as JSON: the same for a folder and for a cluster."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ippo_operator.api.status import LastFailure, ServedPolicy
from ippo_operator.cli.drawing import bar, count
from ippo_operator.cli.logs.attempts import Attempt
from ippo_operator.cli.run_view import RunView, now
from ippo_operator.cli.status.customers import customer_lines
from ippo_operator.cli.status.iterations import iterations_json, iterations_table, plain, warning_lines, warnings
from ippo_operator.local.watch import Progress
from ippo_operator.plan.figures import span_in_words


def as_json(run: RunView) -> dict[str, Any]:
    """For `ippo status --json`. `policyDigest` and `exact` of an iteration are of the policy deployed afterwards."""
    status = run.status
    return {
        "name": run.name,
        "phase": run.phase,
        "reason": str(run.reason) if run.reason is not None else None,
        "message": run.message,
        "progress": status.progress or f"0/{run.limit}",
        "iteration": status.iteration,
        "stage": status.stage,
        "attempt": status.attempt,
        "active": plain(status.active),
        "artifacts": plain(status.artifacts),
        "iterations": iterations_json(status.iterations),
        "warnings": warnings(status.iterations),
        "best": plain(status.best),
        "live": plain(status.live),
        "serving": plain(status.serving),
        "lastFailure": plain(status.last_failure),
        "conditions": [plain(condition) for condition in status.conditions],
    }


def lines(run: RunView, stage: Progress | str | None = None, notes: Sequence[str] = ()) -> list[str]:
    """All that a user may want to know of a run.

    Args:
        run: in a folder or in a cluster.
        stage: how far the running stage is, or why that is not known.
        notes: lines below the run's message.
    """
    time = now()
    status = run.status
    done, limit = status.completed_iterations, run.limit
    head = f"{run.name}: {run.phase}, {done} of {limit} iterations done  {bar(done / limit if limit else 0.0)}"
    text = [head, f"  {run.message}"]
    if not run.observed and run.condition is not None:
        text.append("  the operator has not looked at the newest change of the spec yet")
    text += _doing(run, stage, time)
    text += customer_lines(status, time)
    text += [f"  {note}" for note in notes]
    text += _remedy(run)
    table = iterations_table(status.iterations)
    text += ["", *table] if table else []
    text += warning_lines(status.iterations)
    text += _serving(run, time)
    return text + _failure(run, status.last_failure, time)


def _doing(run: RunView, stage: Progress | str | None, time: datetime) -> list[str]:
    active = run.status.active
    if active is None:
        return []
    text = [f"  for {span_in_words((time - active.created_at).total_seconds())}, in job {active.job_name}"]
    if active.waiting is not None:
        text.append(f"  waits: {active.waiting.reason}")
    elif isinstance(stage, Progress):
        text.append(f"  {stage.what}: {bar(stage.share)} {count(stage)}")
    elif stage is not None:
        text.append(f"  {stage}")
    return text


def _remedy(run: RunView) -> list[str]:
    if run.reason is None or run.reason.recovery == "Fine":
        return []
    return [f"  what to do ({run.reason}): {run.reason.remedy_of(run.argument)}"]


def _serving(run: RunView, time: datetime) -> list[str]:
    serving = run.status.serving
    if serving is None:
        return []
    text = ["", f"serving: {_policy(serving.active)}" if serving.active is not None else "serving: nothing yet"]
    if serving.target is not None and not serving.target.same(serving.active):
        text.append(f"  rolling out: {_policy(serving.target)}")
    if serving.waiting_since is not None:
        text.append(f"  waiting for its servers for {span_in_words((time - serving.waiting_since).total_seconds())}")
    troubles = (serving.waiting, serving.blocked, serving.failed)
    return text + [f"  {trouble.reason}: {trouble.message}" for trouble in troubles if trouble is not None]


def _policy(policy: ServedPolicy) -> str:
    return f"the policy of iteration {policy.iteration} ({policy.digest.removeprefix('sha256:')[:12]})"


def _failure(run: RunView, failure: LastFailure | None, time: datetime) -> list[str]:
    if failure is None:
        return []
    ago = span_in_words((time - failure.time).total_seconds())
    attempt = Attempt.of(failure.iteration, failure.stage, failure.attempt)
    text = ["", f"last failure: {attempt}, {ago} ago", f"  {failure.reason}: {failure.message}"]
    return [*text, f"  what to do: {failure.reason.remedy_of(run.argument)}"]
