"""`ippo judge`: which of two policies suggests better, without knowing which is which."""

import re
from argparse import ArgumentParser, ArgumentTypeError

from ippo_operator.cli.bucket_flags import add_bucket_flags
from ippo_operator.cli.parsing import Verb, add_run, at_least

ABOUT = """\
Shows states of held-out conversations with a suggestion of the candidate and one of the current policy, in random order
and without names, and asks which is better: a, b, s (the same), k (skip) or q (quit). Only states on which they differ
are shown, one of each conversation. Votes are kept as they come; the same command goes on where it stopped.

The votes are counted into spec.promotion.judgement, beside the gate's figures, for who answers with `ippo approve` or
`ippo reject`, and into the report. They decide nothing by themselves. For runs without a simulator.

With --votes nobody is asked: votes are read from files of earlier sessions, of several judges, too. Who votes twice on
a state counts once, with the last vote.
"""
EXAMPLES = """\
examples:
  ippo judge runs/shop
  ippo judge shop --judge anna --credentials-from-secret     a run in a cluster
  ippo judge shop --votes anna.jsonl ben.jsonl               count what two people said
"""
VERB = Verb(
    "judge", __name__, "compare two policies' suggestions without knowing whose they are", ABOUT, EXAMPLES, True, True
)


def _name(text: str) -> str:
    """Of a judge, which is part of a file's name."""
    if not re.fullmatch(r"\w[\w .@+-]{0,63}", text):
        raise ArgumentTypeError(f"given {text!r}, allowed are at most 64 letters, digits, blanks and any of . @ + - _")
    return text


def add_arguments(parser: ArgumentParser) -> None:
    """What it takes."""
    add_run(parser, VERB)
    parser.add_argument(
        "--iteration", type=at_least(1), metavar="I", help="whose candidate (default: the latest evaluated one)"
    )
    parser.add_argument(
        "--judge", type=_name, default="judge", metavar="NAME", help="who judges (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="where votes are kept (default: NAME-votes-I-JUDGE.jsonl, or in the run's folder votes-I-JUDGE.jsonl)",
    )
    parser.add_argument("--votes", nargs="+", metavar="FILE", help="count these votes and ask nobody")
    add_bucket_flags(parser)
