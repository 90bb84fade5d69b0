"""`ippo retry`: one more attempt, of a run in a folder or in a cluster."""

from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path

from ippo_operator.api.status import RunStatus
from ippo_operator.cli.errors import CommandError
from ippo_operator.cli.place import is_folder
from ippo_operator.local.folder import FolderError, RunFolder
from ippo_operator.plan import failures
from ippo_operator.plan.phase import phase


def command(arguments: Namespace) -> int:
    """Has the stage that stalled tried once more; a run in a folder goes on from there, as with `ippo run`."""
    if not is_folder(arguments, arguments.run):
        from ippo_operator.cli.remote import decide

        return decide.command(arguments)
    from ippo_operator.cli.run import drive

    folder = RunFolder(Path(arguments.run))
    try:
        run = folder.read()
    except FolderError as error:
        raise CommandError(str(error)) from None
    status = run.status or RunStatus()
    if not failures.can_be_asked_again(status, run.spec):
        stands = phase(run.spec, status, datetime.now(UTC))
        if stands.name == "Failed":
            raise CommandError(f"another attempt would come to the same: {stands.message}")
        raise CommandError(f"{folder.path} has no stage that stalled ({stands.name}: {stands.message})")
    return drive(folder, run, str(folder.path / "run.json"))
