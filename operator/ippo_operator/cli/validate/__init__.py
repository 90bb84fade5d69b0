"""`ippo validate`: what is wrong with a manifest, and with what it names."""

from ippo_operator.cli.parsing import Commands, Verb, add_manifest, add_verb

VERB = Verb("validate", __name__, "check a manifest: one line per problem")


def add(commands: Commands) -> None:
    """Its parser."""
    add_manifest(add_verb(commands, VERB))
