"""`ippo plan`: how much memory each stage of a run will take."""

import argparse
from argparse import ArgumentParser

from ippo_operator.cli.parsing import Verb, add_manifest

ABOUT = """\
Says how much memory each stage will take at its peak, by kind, from the config of the base alone: nothing is loaded or
downloaded. What models take is what a stage is refused by where there is too little; activations and caches follow the
stage's own budgets.

  weights      that nothing changes: the base of adapters, models that are only read
  trained      weights, gradients and Adam's moments of what is trained, and snapshots
  activations  of the largest forward and backward
  cache        keys and values of what is sampled
  process      libraries
"""
EXAMPLES = """\
examples:
  ippo plan -f RUN.yaml
  ippo plan -f RUN.yaml --gpu 80
  ippo plan -f RUN.yaml --gpu 80 --config qwen2.5-7b/ --json
"""
VERB = Verb("plan", __name__, "how much memory each stage will take", ABOUT, EXAMPLES)


def add_arguments(parser: ArgumentParser) -> None:
    """What it takes."""
    add_manifest(parser)
    parser.add_argument("--gpu", type=_gibibytes, metavar="GIB", help="memory of a GPU in GiB (default: a CPU)")
    parser.add_argument(
        "--config", metavar="DIR", help="folder of the base's config.json, where policy.base is not on this machine"
    )
    parser.add_argument("--json", action="store_true", help="for programs: bytes")


def _gibibytes(text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value <= 10_000:
        raise argparse.ArgumentTypeError(f"given {text}, allowed are 1 to 10000 GiB")
    return int(value * (1 << 30))
