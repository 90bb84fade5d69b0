"""`ippo status`: where a run is."""

import argparse
from argparse import ArgumentParser

from ippo_operator.cli.parsing import Verb, add_run

ABOUT = """\
Where a run is: what it does or waits for, how far the running stage is, its iterations, what is served, and what went
wrong last, with the remedy. Without a name: all runs of the namespace.

An argument with a / in it, or the name of a folder that is there, is a run on this machine.
"""
EXAMPLES = """\
examples:
  ippo status                 the runs of the current namespace
  ippo status -A              of all namespaces
  ippo status sales           one run
  ippo status sales --watch   live, until it ends; exit code 0 if it succeeded, 1 if it stalled
  ippo status sales --json
  ippo status runs/demo       a run on this machine
"""
VERB = Verb("status", __name__, "where a run is, or all runs", ABOUT, EXAMPLES, folder=True, cluster=True)


def add_arguments(parser: ArgumentParser) -> None:
    """What it takes."""
    add_run(parser, VERB, optional=True)
    parser.add_argument(
        "-A",
        "--all-namespaces",
        action="store_true",
        default=argparse.SUPPRESS,
        help="list the runs of all namespaces",
    )
    parser.add_argument("-w", "--watch", action="store_true", help="live, until the run ends")
    parser.add_argument("--json", action="store_true", help="for programs")
