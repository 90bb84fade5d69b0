"""`ippo retry` of a run in a folder."""

from argparse import Namespace

from ippo_operator.cli.errors import CommandError
from ippo_operator.cli.folders import open_folder
from ippo_operator.cli.run.folder import drive
from ippo_operator.plan import failures


def command(arguments: Namespace) -> int:
    """Has the stage that stalled tried once more; the run goes on from there, as with `ippo run`."""
    run = open_folder(arguments.run)
    if not failures.can_be_asked_again(run.view.status, run.manifest.spec):
        if run.view.phase == "Failed":
            raise CommandError(f"another attempt would come to the same: {run.view.message}")
        raise CommandError(f"{run.view.argument} has no stage that stalled ({run.view.phase}: {run.view.message})")
    return drive(run.folder, run.manifest, str(run.folder.run_file))
