"""`ippo version`."""

from argparse import ArgumentParser

from ippo_operator.cli.parsing import Verb

VERB = Verb("version", __name__, "the version of this command; as ippo --version")


def add_arguments(_: ArgumentParser) -> None:
    """Nothing."""
