"""`ippo version`."""

from ippo_operator.cli.parsing import Commands, Verb, add_verb

VERB = Verb("version", __name__, "the version of this command; as ippo --version")


def add(commands: Commands) -> None:
    """Its parser."""
    add_verb(commands, VERB)
