"""`ippo validate`: what is wrong with a manifest, and with what it names."""

from ippo_operator.cli.parsing import Verb, add_manifest

VERB = Verb("validate", __name__, "check a manifest: one line per problem")


add_arguments = add_manifest
