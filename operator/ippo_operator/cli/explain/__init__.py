"""`ippo explain`: reasons in words."""

from argparse import ArgumentParser

from ippo_operator.cli.parsing import Verb

ABOUT = """\
Reasons of conditions and failures in words: what they mean, what to do, and whether they heal by themselves.
"""
EXAMPLES = """\
examples:
  ippo explain                  all reasons
  ippo explain Unschedulable    one of them
  ippo explain sales            those that a run in the cluster gives now
"""
VERB = Verb("explain", __name__, "what a reason means and what to do", ABOUT, EXAMPLES, cluster=True)


def add_arguments(parser: ArgumentParser) -> None:
    """What it takes."""
    parser.add_argument("topic", nargs="?", metavar="REASON|NAME", help="a reason, or a run in a cluster")
