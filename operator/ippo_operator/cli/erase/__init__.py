"""`ippo erase`: takes a conversation out of a live run's log."""

from argparse import ArgumentParser

from ippo_operator.cli.bucket_flags import add_bucket_flags
from ippo_operator.cli.parsing import Verb, add_run

ABOUT = """\
Takes all events of a conversation out of what gateways and servers logged, and says which data hold it and which
policies have learnt from it. Segments are written anew without it. Copies that come later count for nothing.

Data, Q and policies stay as they are: others may depend on them. What to delete is printed.
"""
EXAMPLES = """\
examples:
  ippo erase runs/shop order-4711 --dry-run      what is there of it
  ippo erase runs/shop order-4711
  ippo erase shop order-4711 --credentials-from-secret     a run in a cluster
"""
VERB = Verb("erase", __name__, "take a conversation out of the log of a live run", ABOUT, EXAMPLES, True, True)


def add_arguments(parser: ArgumentParser) -> None:
    """What it takes."""
    add_run(parser, VERB)
    parser.add_argument("conversation", metavar="CONVERSATION", help="its id, as the application calls it")
    parser.add_argument("--dry-run", action="store_true", help="change nothing, say what would be done")
    add_bucket_flags(parser)
