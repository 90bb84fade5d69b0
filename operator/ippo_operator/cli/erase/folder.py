"""`ippo erase` of a run in a folder."""

from argparse import Namespace

from ippo_operator.cli.bucket_flags import check_no_bucket_flags
from ippo_operator.cli.erase.account import erase
from ippo_operator.cli.errors import OK
from ippo_operator.cli.folders import open_folder
from ippo_operator.cli.trainer import check_trainer, trainer_errors


def command(arguments: Namespace) -> int:
    """Erases, also while the run goes on."""
    check_no_bucket_flags(arguments)
    run = open_folder(arguments.run)
    check_trainer()
    with trainer_errors():
        erase(arguments, run.folder.store(run.manifest), run.status)
    return OK
