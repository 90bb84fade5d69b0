"""`ippo validate`: says what is wrong with a manifest and with what it names, or that nothing is."""

import sys
from argparse import Namespace

from ippo_operator.api.fitting import in_words
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.cli.errors import CommandError
from ippo_operator.cli.manifests import read_manifest
from ippo_operator.cli.validate.checks import findings


def command(arguments: Namespace) -> int:
    """Checks a manifest; one line per problem."""
    run = read_manifest(arguments.file, arguments.name)
    everything = findings(run)
    wrong = [f"{arguments.file}: {finding.text}" for finding in everything if finding.wrong]
    if wrong:
        raise CommandError("\n".join(wrong))
    for finding in everything:
        print(f"note: {finding.text}", file=sys.stderr)
    print(f"{arguments.file}: {run.metadata.name} is valid: {_summary(run)}")
    if in_words(run.spec):
        print(f"{arguments.file}: {in_words(run.spec)}")
    return 0


def _summary(run: IterativePPORun) -> str:
    spec = run.spec
    simulate, history = spec.collect.simulate, spec.collect.history
    start = "no warm start" if spec.warm_start is None else "a warm start"
    first = "" if history is None else f", an iteration from {history.conversations}"
    if simulate is None:
        return f"{start}{first}, then your approval, policy {spec.policy.base}"
    count = spec.iterations.max - (history is not None)
    return (
        f"{start}{first}, then up to {count} iterations of {simulate.conversations} conversations "
        f"with {simulate.environment.name}, policy {spec.policy.base}"
    )
