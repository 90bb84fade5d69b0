"""What the parsers of ippo's commands have in common."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ippo_trainer.contract.command_line import Parser

from ippo_operator.cli.cluster_flags import add_flags

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


@dataclass(frozen=True)
class Verb:
    """A command: its name, its help, and the package below ippo_operator.cli that carries it out."""

    name: str
    package: str
    summary: str
    about: str = ""
    examples: str = ""
    folder: bool = False
    """It is about a run in a folder: `folder.py` carries it out."""
    cluster: bool = False
    """It is about a run in a cluster: `cluster.py` carries it out. Without either, `command.py` does."""
    instead: str = ""
    """What to do about a run in a folder, where it is about runs in clusters only; {run} is the folder."""


def add_verb(commands: Commands, verb: Verb, add_arguments: Callable[[argparse.ArgumentParser], None]) -> None:
    """The parser of a verb: its own arguments, then kubectl's flags where runs in a cluster are meant."""
    parser = commands.add_parser(
        verb.name,
        help=verb.summary,
        description=verb.about or verb.summary,
        epilog=verb.examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(verb=verb)
    add_arguments(parser)
    if verb.cluster:
        add_flags(parser)


def add_run(parser: argparse.ArgumentParser, verb: Verb, optional: bool = False) -> None:
    """The run that the verb is about."""
    both = verb.folder and verb.cluster
    metavar = "NAME|DIR" if both else "NAME" if verb.cluster else "DIR"
    text = "a run in a cluster, or a run's folder" if both else "of the run" if verb.cluster else "the run's folder"
    parser.add_argument("run", nargs="?" if optional else None, metavar=metavar, help=text)


def add_manifest(parser: argparse.ArgumentParser) -> None:
    """-f and --name."""
    parser.add_argument(
        "-f", "--file", required=True, metavar="RUN.yaml", help="the manifest, - for standard input; as for kubectl"
    )
    parser.add_argument("--name", help="which run, if the file holds several")


def at_least(lowest: int) -> Callable[[str], int]:
    """An argument that is a whole number of at least so much."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if value < lowest:
            raise argparse.ArgumentTypeError(f"given {text}, allowed is a whole number of at least {lowest}")
        return value

    return number
