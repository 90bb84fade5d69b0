"""`ippo plan`: how much memory and time each stage of a run will take."""

import argparse
from argparse import ArgumentParser

from ippo_operator.cli.parsing import Verb, add_manifest

ABOUT = """\
Says how much memory each stage will take at its peak, by kind, and about how many seconds, from the config of the base
alone: nothing is loaded or downloaded. What models take is what a stage is refused by where there is too little;
activations and caches follow the stage's own budgets. Seconds are operations over the rate of a device: an estimate.

  weights      that nothing changes: the base of adapters, models that are only read
  trained      weights, gradients and Adam's moments of what is trained, and snapshots
  activations  of the largest forward and backward
  cache        keys and values of what is sampled
  solver       of the least squares of Q's last layer
  engine       of vLLM, where it samples
  process      libraries
  seconds      of the stage; of collect, of each shard

The manifest does not say how long conversations are, and how many a log has: --turns, --tokens and --conversations do.
"""
EXAMPLES = """\
examples:
  ippo plan -f RUN.yaml
  ippo plan -f RUN.yaml --gpu 80
  ippo plan -f RUN.yaml --gpu 80 --config qwen2.5-7b/ --json
"""
VERB = Verb("plan", __name__, "how much memory and time each stage will take", ABOUT, EXAMPLES)
DEVICES = ("cpu", "h100", "h200", "a100")
"""Whose rates are known: `models.timing` has them."""


def add_arguments(parser: ArgumentParser) -> None:
    """What it takes."""
    add_manifest(parser)
    parser.add_argument("--gpu", type=_gibibytes, metavar="GIB", help="memory of a GPU in GiB (default: a CPU)")
    parser.add_argument(
        "--config", metavar="DIR", help="folder of the base's config.json, where policy.base is not on this machine"
    )
    parser.add_argument(
        "--device", choices=DEVICES, help="whose seconds (default: cpu, which is a core of one; with --gpu an h100)"
    )
    parser.add_argument(
        "--turns", type=_positive, default=6, metavar="N", help="of a conversation (default: %(default)s)"
    )
    parser.add_argument(
        "--tokens", type=_positive, metavar="N", help="of a whole conversation (default: policy.maxPromptTokens)"
    )
    parser.add_argument(
        "--conversations", type=_positive, default=1000, metavar="N", help="of a log (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="for programs: bytes and seconds")


def _positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000_000:
        raise argparse.ArgumentTypeError(f"given {text}, allowed are 1 to 10000000")
    return int(text)


def _gibibytes(text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value <= 10_000:
        raise argparse.ArgumentTypeError(f"given {text}, allowed are 1 to 10000 GiB")
    return int(value * (1 << 30))
