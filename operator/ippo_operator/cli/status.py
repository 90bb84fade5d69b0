"""`ippo status`: where a run is, for people and as JSON."""

import json
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.status import RunStatus
from ippo_operator.cli.errors import CommandError
from ippo_operator.cli.place import is_folder
from ippo_operator.cli.tables import iterations_json, iterations_table, plain, warning_lines, warnings
from ippo_operator.local.folder import FolderError, RunFolder
from ippo_operator.local.watch import read_progress
from ippo_operator.plan.phase import Phase, phase


def command(arguments: Namespace) -> int:
    """Prints the status of a run: of the folder that is named, else of one in a cluster, or of all there."""
    if not is_folder(arguments, arguments.run):
        from ippo_operator.cli.remote import status as in_cluster

        return in_cluster.command(arguments)
    if arguments.watch:
        raise CommandError("--watch is for runs in a cluster; `ippo run` itself shows how a run in a folder gets on")
    folder = RunFolder(Path(arguments.run))
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
        "iterations": iterations_json(status.iterations),
        "warnings": warnings(status.iterations),
        "best": plain(status.best),
        "lastFailure": plain(status.last_failure),
    }


def public_phase(stands: Phase, status: RunStatus) -> str:
    """Pending, Running, Suspended, Succeeded or Failed."""
    if stands.ended:
        return "Succeeded" if stands.name == "Succeeded" else "Failed"
    if stands.name in {"Suspended", "Suspending"}:
        return "Suspended"
    return "Pending" if status.active is None and not status.iterations and status.attempt == 0 else "Running"


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
    table = iterations_table(status.iterations)
    lines += ["", *table] if table else []
    lines += warning_lines(status.iterations)
    if status.last_failure is not None:
        failure = status.last_failure
        lines += ["", f"last failure: {failure.stage} of iteration {failure.iteration}, attempt {failure.attempt}"]
        lines.append(f"  {failure.reason}: {failure.message}")
    return lines
