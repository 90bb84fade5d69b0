"""`ippo report`: the run as one HTML file, of a folder or of a cluster."""

from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.status import RunStatus
from ippo_operator.cli.errors import CommandError
from ippo_operator.cli.folder_logs import last_lines
from ippo_operator.cli.place import is_folder
from ippo_operator.cli.report_errors import report_errors
from ippo_operator.cli.standing import standing
from ippo_operator.local.folder import RunFolder
from ippo_operator.plan.phase import phase

SHOWN_LINES = 20
"""Of the log of the stage that failed."""


def command(arguments: Namespace) -> int:
    """Writes the report of a run, finished or not."""
    if not is_folder(arguments, arguments.run):
        from ippo_operator.cli.remote import report as in_cluster

        return in_cluster.command(arguments)
    if arguments.endpoint_url or arguments.credentials_from_secret:
        raise CommandError("--endpoint-url and --credentials-from-secret are for runs in a cluster, not for folders")
    folder = RunFolder(Path(arguments.run))
    output = Path(arguments.out) if arguments.out else folder.path / "report.html"
    print(write_report_of(folder, output))
    return 0


def write_report_of(folder: RunFolder, output: Path) -> Path:
    """Writes the report and returns its path; raises CommandError if that cannot be done."""
    with report_errors(output):
        run = folder.read()
        location = folder.store(run)
        stands = standing_of(folder, run)
        from ippo_trainer.report import write_report
        from ippo_trainer.store import open_store

        manifest = run.model_dump(mode="json", by_alias=True, exclude={"status"}, exclude_none=True)
        write_report(open_store(location), output, manifest, stands)
    return output


def standing_of(folder: RunFolder, run: IterativePPORun) -> dict[str, Any] | None:
    """What the report says first; None of a run that goes on or has ended well."""
    status = run.status or RunStatus()
    stands = phase(run.spec, status, datetime.now(UTC))
    state = "Failed" if stands.ended and stands.name != "Succeeded" else stands.name
    failure = status.last_failure
    log = last_lines(folder, failure, SHOWN_LINES) if failure is not None else []
    return standing(str(folder.path), state, stands.reason, stands.message, failure, log)
