"""`ippo exact`: an environment's exact solution, and a trained policy beside it."""

import argparse
from argparse import ArgumentParser

from ippo_operator.cli.parsing import Verb, at_least

ABOUT = """\
Solves an environment exactly and prints the value (discounted) and the success of reference policies: the optimum, the
environment's own base policy, k greedy steps of policy iteration from it, and others. With --policy it lets a trained
policy hold conversations and scores it against the exact solution.
"""
EXAMPLES = """\
examples:
  ippo exact --env sr-funnel
  ippo exact --env sr-funnel --horizon 8 --discount 0.9 --json
  ippo exact --env sr-funnel --tables my-tables.json
  ippo exact --env double-t-maze --horizon 30
  ippo exact --env sr-funnel --policy runs/demo/artifacts/iterations/0004/policy/0a1b2c3d4e5f6071 --conversations 10000
"""
VERB = Verb("exact", __name__, "solve an environment exactly, score a policy", ABOUT, EXAMPLES)


def add_arguments(parser: ArgumentParser) -> None:
    """What it takes."""
    parser.add_argument(
        "--env",
        required=True,
        type=_name,
        metavar="NAME",
        help="sr-funnel, double-t-maze, garden, catalogue-shop, module:Class or file.py:Class",
    )
    parser.add_argument("--horizon", type=int, metavar="H", help="most turns of a conversation")
    parser.add_argument("--discount", type=_share, default=0.95, metavar="D", help="per turn (default: 0.95)")
    parser.add_argument("--tables", metavar="FILE", help="other probabilities for sr-funnel, JSON")
    parser.add_argument("--policy", metavar="PATH", help="folder of a policy artifact, to be scored too")
    parser.add_argument(
        "--conversations", type=at_least(2), default=10_000, metavar="N", help="that it holds for that (default: 10000)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of these conversations (default: 0)")
    parser.add_argument(
        "--max-new-tokens",
        type=at_least(2),
        default=16,
        metavar="N",
        help="of a suggestion, as the run's (default: 16)",
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def _name(text: str) -> str:
    if not 1 <= len(text) <= 256:
        raise argparse.ArgumentTypeError("given a name that is empty or longer than 256 characters")
    return text


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"given {text}, allowed is above 0 and at most 1")
    return value
