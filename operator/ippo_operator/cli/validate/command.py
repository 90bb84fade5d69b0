"""`ippo validate`: says what is wrong with a manifest and with what it names, or that nothing is."""

import sys
from argparse import Namespace
from decimal import Decimal

from ippo_operator.api import idle
from ippo_operator.api.fitting import in_words
from ippo_operator.api.resource import IterativePPORun, LiveCollect, RunSpec
from ippo_operator.cli.errors import CommandError
from ippo_operator.cli.manifests import read_manifest
from ippo_operator.cli.validate import doubts, pods
from ippo_operator.cli.validate.checks import findings
from ippo_operator.plan import approval, canary


def command(arguments: Namespace) -> int:
    """Checks a manifest; one line per problem."""
    run = read_manifest(arguments.file, arguments.name)
    everything = findings(run)
    wrong = [f"{arguments.file}: {finding.text}" for finding in everything if finding.wrong]
    if wrong:
        raise CommandError("\n".join(wrong))
    notes = [finding.text for finding in everything]
    for note in (*notes, *pods.problems(run), *doubts.problems(run.spec), *idle.problems(run.spec)):
        print(f"note: {note}", file=sys.stderr)
    print(f"{arguments.file}: {run.metadata.name} is valid: {_summary(run)}")
    if in_words(run.spec):
        print(f"{arguments.file}: {in_words(run.spec)}")
    return 0


def _summary(run: IterativePPORun) -> str:
    spec = run.spec
    simulate, history = spec.collect.simulate, spec.collect.history
    start = "no warm start" if spec.warm_start is None else "a warm start"
    first = "" if history is None else f", an iteration from {history.conversations}"
    count, policy = spec.iterations.max - (history is not None), f"policy {spec.policy.base}"
    if spec.collect.logged is not None:
        return f"{start}{first}, then {_iterations(count)} of {_live(spec, spec.collect.logged)}, {policy}"
    if simulate is None:
        return f"{start}{first}, then your approval, {policy}"
    environment = simulate.environment.name
    if not count:
        return f"{start}{first}, its candidate measured with {environment}, {policy}"
    return (
        f"{start}{first}, then {_iterations(count)} of {simulate.conversations} conversations "
        f"with {environment}, {policy}"
    )


def _live(spec: RunSpec, logged: LiveCollect) -> str:
    """How an iteration of live conversations goes."""
    text = f"{logged.min_conversations} or more live conversations, {logged.min_outcomes} or more with the outcome"
    if not approval.tested(spec):
        return f"{text}, your approval after each"
    test = canary.settings(spec)
    approved = " and your approval" if approval.by_hand(spec) else ""
    return f"{text}, an A/B test of each candidate on {_percent(test.share)} of customers{approved}"


def _percent(share: str) -> str:
    """As it was written, so that 0.999999 is not all."""
    return f"{(Decimal(share) * 100).normalize():f}%"


def _iterations(count: int) -> str:
    return f"up to {count} iterations" if count > 1 else "1 iteration"
