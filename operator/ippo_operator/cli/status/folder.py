"""`ippo status` of a run in a folder."""

import json
from argparse import Namespace

from ippo_operator.cli.errors import OK, CommandError
from ippo_operator.cli.folders import FolderRun, open_folder
from ippo_operator.cli.status.lines import as_json, lines
from ippo_operator.local.watch import read_progress


def command(arguments: Namespace) -> int:
    """Prints the status of a run."""
    if arguments.watch:
        raise CommandError("--watch is for runs in a cluster; `ippo run` itself shows how a run in a folder gets on")
    run = open_folder(arguments.run)
    if arguments.json:
        print(json.dumps(as_json(run.view) | {"runnerActive": run.runner_active}, indent=2))
    else:
        print("\n".join(_lines(run)))
    return OK


def _lines(run: FolderRun) -> list[str]:
    folder, view = run.folder, run.view
    notes = []
    if not view.ended and view.phase != "Suspended" and not run.runner_active:
        notes.append(f"no runner is at work; go on with: ippo run -f RUN.yaml --out {folder.path}")
    if view.status.active is None:
        return lines(view, notes=notes)
    job = folder.jobs / view.status.active.job_name
    return lines(view, read_progress(job), [*notes, f"logs: {job}"])
