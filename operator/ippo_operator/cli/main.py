"""`ippo`: the command line. Every expected error is one line (or one per problem), never a traceback."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from ippo_trainer.contract.lines import printable

from ippo_operator.cli.cluster_flags import add_flags, given
from ippo_operator.cli.cluster_parsers import add_cluster
from ippo_operator.cli.errors import INTERRUPTED, TRY_AGAIN, CommandError
from ippo_operator.cli.parsers import Parser, add_local

COMPLETE = "__complete"
"""Followed by the words of an unfinished command line; as in commands that cobra makes."""
_ABOUT = """\
Iterative PPO: turn a chat agent's outcomes into a better agent, again and again.

A run is one YAML file, an IterativePPORun. It goes round this loop on its own:

  warm-start   imitate logged conversations                     once
  collect      let the current policy talk to customers
  fit-q        learn from the outcomes what each suggestion is worth
  improve      PPO towards suggestions that are worth more
  evaluate     is the candidate better? then it is the current policy
"""
_EXAMPLES = """\
examples:
  on this machine:
    ippo validate -f examples/sr-funnel.yaml
    ippo run -f examples/sr-funnel.yaml --out runs/demo
    ippo status runs/demo
    ippo report runs/demo
    ippo exact --env sr-funnel

  in a cluster (also as `kubectl ippo -n team status`; flags before or after the verb):
    ippo diff -f RUN.yaml
    kubectl apply -f RUN.yaml
    ippo status NAME --watch
    ippo logs NAME --follow
    ippo approve NAME
    ippo suspend NAME
    ippo retry NAME
    ippo report NAME
    ippo explain NAME

exit codes:
  0    done
  1    the run stalled, `ippo status` says why; `ippo diff` found a difference
  64   the manifest or the command line is wrong, or the cluster refuses
  65   an input of a stage is wrong
  75   not now: another runner is at work, a disk is full, a store or an API server is down
  130  stopped by Ctrl-C; the same command resumes
"""


def main(argv: Sequence[str] | None = None, program: str = "ippo") -> int:
    """Runs the command and returns its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == [COMPLETE]:
        from ippo_operator.cli import complete

        return complete.main(words[1:])
    parser = make_parser(program)
    arguments = parser.parse_args(words)
    _check_flags(parser, arguments)
    try:
        module = importlib.import_module(arguments.module)
        code: int = module.command(arguments)
        sys.stdout.flush()
        return code
    except CommandError as error:
        print("\n".join(map(printable, str(error).split("\n"))), file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `ippo status … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a file that is another user's, a folder where a file should be, a name that is too long
        where = f" {printable(str(error.filename))}" if error.filename else ""
        print(f"cannot read or write{where}: {error.strerror or error}", file=sys.stderr)
        return TRY_AGAIN


def kubectl_complete() -> int:
    """What kubectl asks for the completion of `kubectl ippo`: a program of the name kubectl_complete-ippo."""
    return main([COMPLETE, *sys.argv[1:]])


def kubectl() -> int:
    """The same as `kubectl ippo`: kubectl finds its plugins by name, kubectl-ippo."""
    return main(program="kubectl ippo")


def make_parser(program: str) -> Parser:
    """All verbs. kubectl's flags stand before a verb or after it."""
    parser = Parser(
        prog=program,
        usage="%(prog)s [FLAGS] COMMAND ...",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    add_flags(parser, before_the_verb=True)
    parser.add_argument("-A", "--all-namespaces", action="store_true", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", prog=program)
    add_local(commands)
    add_cluster(commands)
    return parser


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from ippo_operator.cli.version import line

        print(line())
        parser.exit()


def _check_flags(parser: Parser, arguments: argparse.Namespace) -> None:
    """Ends with 64 where a flag that stands before the verb means nothing to it."""
    flags = [] if arguments.in_cluster else given(arguments)
    if arguments.all_namespaces and arguments.command != "status":
        flags.append("-A")
    if flags:
        parser.error(f"{flags[0]} means nothing to {arguments.command}; leave it out")


if __name__ == "__main__":
    sys.exit(main())
