"""`ippo logs`: of a folder of this machine, else of a run in a cluster."""

from argparse import Namespace

from ippo_operator.cli.place import is_folder


def command(arguments: Namespace) -> int:
    """Prints the log of a stage."""
    if is_folder(arguments, arguments.run):
        from ippo_operator.cli import folder_logs

        return folder_logs.command(arguments)
    from ippo_operator.cli.remote import logs as in_cluster

    return in_cluster.command(arguments)
