"""`ippo erase` of a run in a cluster: in its bucket."""

from argparse import Namespace
from contextlib import nullcontext

from ippo_operator.cli.clusters import cluster, find
from ippo_operator.cli.erase.account import erase
from ippo_operator.cli.errors import OK
from ippo_operator.cli.report.cluster import run_location, secret_credentials
from ippo_operator.cli.trainer import check_trainer, trainer_errors


def command(arguments: Namespace) -> int:
    """Erases, also while the run goes on."""
    with cluster(arguments) as runs:
        run = find(runs, arguments.run)
        check_trainer()
        keys = secret_credentials(runs, run) if arguments.credentials_from_secret else nullcontext()
        with keys, trainer_errors():
            erase(arguments, run_location(run, arguments.endpoint_url), run.status)
    return OK
