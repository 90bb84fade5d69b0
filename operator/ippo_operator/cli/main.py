"""`ippo`: the command line. Every expected error is one line (or one per problem), never a traceback."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from ippo_trainer.contract.command_line import Parser
from ippo_trainer.contract.lines import printable

from ippo_operator.cli.cluster_flags import names_folder, written_flags
from ippo_operator.cli.command_line import make_parser
from ippo_operator.cli.errors import INTERRUPTED, TRY_AGAIN, CommandError
from ippo_operator.cli.parsing import Verb

COMPLETE = "__complete"
"""Followed by the words of an unfinished command line; as in commands that cobra makes."""


def main(argv: Sequence[str] | None = None, program: str = "ippo") -> int:
    """Runs the command and returns its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == [COMPLETE]:
        from ippo_operator.cli.completion import answers

        return answers.main(words[1:])
    parser = make_parser(program)
    arguments = parser.parse_args(words)
    _check_flags(parser, arguments)
    try:
        module = importlib.import_module(_module(arguments))
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


def _module(arguments: argparse.Namespace) -> str:
    """What carries the verb out, imported only then."""
    verb: Verb = arguments.verb
    if verb.instead and names_folder(arguments) and "/" in arguments.run:  # no run in a cluster is called so
        raise CommandError(
            f"{verb.name} is for runs in a cluster, and {arguments.run} is a folder on this machine: "
            + verb.instead.format(run=arguments.run)
        )
    if verb.folder and verb.cluster:
        return f"{verb.package}.{'folder' if names_folder(arguments) else 'cluster'}"
    return f"{verb.package}.{'folder' if verb.folder else 'cluster' if verb.cluster else 'command'}"


def _check_flags(parser: Parser, arguments: argparse.Namespace) -> None:
    """Ends with 64 where a flag that stands before the verb means nothing to it."""
    flags = [] if arguments.verb.cluster else written_flags(arguments)
    if arguments.all_namespaces and arguments.command != "status":
        flags.append("-A")
    if flags:
        parser.error(f"{flags[0]} means nothing to {arguments.command}; leave it out")


if __name__ == "__main__":
    sys.exit(main())
