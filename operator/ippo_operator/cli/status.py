"""`ippo status`: where a run is, for people and as JSON."""

import json
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.status import IterationStatus, RunStatus, to_rfc3339
from ippo_operator.cli.errors import CommandError
from ippo_operator.local.folder import FolderError, RunFolder
from ippo_operator.local.watch import read_progress
from ippo_operator.plan.phase import Phase, phase

_EXACT = {
    "value": "exactValue",
    "standardError": "exactStandardError",
    "shareOfOptimum": "exactShareOfOptimum",
    "success": "exactSuccess",
}
"""Key in the JSON -> the candidate's metric; the current policy's has the suffix Current."""
_COLUMNS = (("iteration", 9), ("decision", 12), ("success", 8), ("value", 8), ("of optimum", 10), ("policy", 12))


def command(arguments: Namespace) -> int:
    """Prints the status of a run."""
    folder = RunFolder(Path(arguments.folder))
    try:
        run, active = folder.read(), folder.busy()
    except FolderError as error:
        raise CommandError(str(error)) from None
    status = run.status or RunStatus()
    stands = phase(run.spec, status, datetime.now(UTC))
    if arguments.json:
        print(json.dumps(as_json(run, status, stands, active), indent=2))
    else:
        print("\n".join(_lines(run, status, stands, folder, active)))
    return 0


def as_json(run: IterativePPORun, status: RunStatus, stands: Phase, active: bool) -> dict[str, Any]:
    """The JSON that `ippo status --json` prints. `policyDigest` and `exact` are of the policy deployed afterwards."""
    return {
        "name": run.metadata.name,
        "phase": public_phase(stands, status),
        "reason": str(stands.reason),
        "message": stands.message,
        "runnerActive": active,
        "progress": status.progress or f"0/{run.spec.iterations.max}",
        "iteration": status.iteration,
        "stage": status.stage,
        "attempt": status.attempt,
        "iterations": [_row(row) for row in status.iterations if row.iteration > 0],
        "best": _plain(status.best),
        "lastFailure": _plain(status.last_failure),
    }


def public_phase(stands: Phase, status: RunStatus) -> str:
    """Pending, Running, Suspended, Succeeded or Failed."""
    if stands.ended:
        return "Succeeded" if stands.name == "Succeeded" else "Failed"
    if stands.name in {"Suspended", "Suspending"}:
        return "Suspended"
    return "Pending" if status.active is None and not status.iterations and status.attempt == 0 else "Running"


def _plain(model: Any) -> Any:
    return None if model is None else model.model_dump(mode="json", by_alias=True, exclude_none=True)


def _row(row: IterationStatus) -> dict[str, Any]:
    candidate = row.artifact("improve")
    return {
        "iteration": row.iteration,
        "decision": row.decision.outcome if row.decision is not None else None,
        "reason": row.decision.reason if row.decision is not None else None,
        "policyDigest": row.policy,
        "exact": _exact(row, "" if row.promoted else "Current"),
        "candidate": {"policyDigest": candidate.digest if candidate else None, "exact": _exact(row, "")},
        "metrics": row.metrics,
        "artifacts": {done.stage: _plain(done.artifact) for done in row.stages},
        "startedAt": to_rfc3339(row.started_at),
        "finishedAt": to_rfc3339(row.finished_at) if row.finished_at is not None else None,
    }


def _exact(row: IterationStatus, suffix: str) -> dict[str, float] | None:
    """The exact score of the candidate (no suffix) or of the policy before it, where the environment has one."""
    found = {name: row.metrics[metric + suffix] for name, metric in _EXACT.items() if metric + suffix in row.metrics}
    return found if "value" in found and row.decision is not None else None


def _lines(run: IterativePPORun, status: RunStatus, stands: Phase, folder: RunFolder, active: bool) -> list[str]:
    head = f"{run.metadata.name}: {public_phase(stands, status)}, {status.progress or '0'} iterations done"
    lines = [head, f"  {stands.message}"]
    if not stands.ended and stands.name != "Suspended" and not active:
        lines.append(f"  no runner is at work; go on with: ippo run -f RUN.yaml --out {folder.path}")
    if status.active is not None:
        job = folder.jobs / status.active.job_name
        progress = read_progress(job)
        if progress is not None:
            lines.append(f"  {progress.what}: {progress.done}/{progress.total} {progress.rest}")
        lines.append(f"  logs: {job}")
    rows = [row for row in status.iterations if row.iteration > 0]
    if rows:
        lines += ["", _cells([name for name, _ in _COLUMNS])]
        lines += [_cells(_table_row(row)) for row in rows]
    if status.last_failure is not None:
        failure = status.last_failure
        lines += ["", f"last failure: {failure.stage} of iteration {failure.iteration}, attempt {failure.attempt}"]
        lines.append(f"  {failure.reason}: {failure.message}")
    return lines


def _table_row(row: IterationStatus) -> list[str]:
    suffix = "" if row.promoted else "Current"

    def figure(name: str, form: str) -> str:
        value = row.metrics.get(name + suffix)
        return "-" if value is None or row.decision is None else format(value, form)

    return [
        str(row.iteration),
        row.decision.outcome if row.decision is not None else "-",
        figure("success", ".1%"),
        figure("value", ".4f"),
        figure("exactShareOfOptimum", ".1%"),
        (row.policy or "-").removeprefix("sha256:")[:12],
    ]


def _cells(cells: list[str]) -> str:
    pairs = zip(cells, _COLUMNS, strict=True)
    return "  ".join(cell.ljust(width) for cell, (_, width) in pairs).rstrip()
