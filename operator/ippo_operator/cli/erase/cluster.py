"""`ippo erase` of a run in a cluster: in its bucket."""

from argparse import Namespace

from ippo_operator.cli.bucket import bucket
from ippo_operator.cli.clusters import cluster, find
from ippo_operator.cli.erase.account import erase
from ippo_operator.cli.errors import OK
from ippo_operator.cli.trainer import check_trainer, trainer_errors


def command(arguments: Namespace) -> int:
    """Erases, also while the run goes on."""
    with cluster(arguments) as runs:
        run = find(runs, arguments.run)
        check_trainer()
        with bucket(arguments, runs, run) as location, trainer_errors():
            erase(arguments, location, run.status)
    return OK
