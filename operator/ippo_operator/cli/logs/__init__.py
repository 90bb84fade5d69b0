"""`ippo logs`: the log of a stage."""

from argparse import ArgumentParser

from ippo_trainer.contract.stages import NAMES

from ippo_operator.cli.parsing import Verb, add_run, at_least

ABOUT = """\
The log of the stage that runs, or ran last. With --follow it goes on to each following stage until the run ends.
What is said about the log goes to standard error, so that standard output is the log alone.

Logs are those of the pods: they go with them, after spec.cleanup. Those of a run in a folder stay there.
"""
EXAMPLES = """\
examples:
  ippo logs sales -f                           all stages from now on
  ippo logs sales --previous                   of the attempt that failed last
  ippo logs sales --stage fit-q --iteration 2
  ippo logs sales --stage collect --shard 3    of one of several pods
  ippo logs runs/demo -f                       a run on this machine
"""
VERB = Verb("logs", __name__, "the log of the stage that runs", ABOUT, EXAMPLES, folder=True, cluster=True)


def add_arguments(parser: ArgumentParser) -> None:
    """What it takes."""
    add_run(parser, VERB)
    parser.add_argument("-f", "--follow", action="store_true", help="stay, also over stages, until the run ends")
    parser.add_argument("--stage", choices=NAMES, help="by default, the one that runs or ran last")
    parser.add_argument("--iteration", type=at_least(0), metavar="I", help="by default, the latest with that stage")
    parser.add_argument("--attempt", type=at_least(0), metavar="N", help="by default, the latest")
    parser.add_argument(
        "--shard", type=at_least(0), metavar="K", help="of stages with several pods (default: the first)"
    )
    parser.add_argument("--previous", action="store_true", help="of the attempt that failed last")
    parser.add_argument("--tail", type=at_least(0), metavar="N", help="only the last N lines")
