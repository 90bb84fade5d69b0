"""`ippo report` of a run in a folder."""

from argparse import Namespace
from pathlib import Path

from ippo_operator.cli.bucket_flags import check_no_bucket_flags
from ippo_operator.cli.folders import read
from ippo_operator.cli.logs.folder import last_lines
from ippo_operator.cli.report.errors import report_errors
from ippo_operator.cli.report.standing import standing
from ippo_operator.cli.status.iterations import plain
from ippo_operator.local.folder import RunFolder

LOG_LINES = 20
"""Of the log of the stage that failed."""


def command(arguments: Namespace) -> int:
    """Writes the report of a run, finished or not."""
    check_no_bucket_flags(arguments)
    folder = RunFolder(Path(arguments.run))
    output = Path(arguments.out) if arguments.out else folder.path / "report.html"
    print(write_report_of(folder, output))
    return 0


def write_report_of(folder: RunFolder, output: Path) -> Path:
    """Writes the report and returns its path; raises CommandError if that cannot be done."""
    run = read(folder)
    failure = run.view.status.last_failure
    log = last_lines(folder, failure, LOG_LINES) if failure is not None else []
    with report_errors(output):
        from ippo_trainer.report import write_report
        from ippo_trainer.store import open_store

        manifest = run.view.raw | {"status": plain(run.view.status)}
        write_report(open_store(folder.store(run.manifest)), output, manifest, standing(run.view, log))
    return output
