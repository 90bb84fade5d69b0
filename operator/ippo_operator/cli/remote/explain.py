"""`ippo explain`: the reasons in words; of one, of all, or those that a run gives now."""

import difflib
from argparse import Namespace
from collections.abc import Iterator

from ippo_operator.api.reasons import EXPLANATIONS, RECOVERY
from ippo_operator.api.status import Reason
from ippo_operator.cli.cluster_flags import given
from ippo_operator.cli.errors import OK, CommandError
from ippo_operator.cli.remote.connect import cluster, find
from ippo_operator.cli.remote.view import View, now, view

_WIDTH = max(len(reason) for reason in Reason)


def command(arguments: Namespace) -> int:
    """Prints the explanation. Reasons begin with a capital letter, names of runs never do."""
    topic = arguments.topic
    if topic is None:
        print("\n".join(f"{reason:{_WIDTH}}  {told.meaning}" for reason, told in EXPLANATIONS.items()))
        return OK
    known = {reason.lower(): reason for reason in Reason}
    reason = known.get(topic.lower())
    if reason is not None and not given(arguments):
        print("\n".join(_reason(reason)))
        return OK
    if topic[:1].isupper():
        near = [known[name] for name in difflib.get_close_matches(topic.lower(), known, n=3, cutoff=0.5)]
        hint = f"did you mean {' or '.join(near)}?" if near else "see them all with: ippo explain"
        raise CommandError(f"there is no reason {topic}; {hint}")
    with cluster(arguments) as runs:
        print("\n".join(_run(view(find(runs, topic)))))
    return OK


def _reason(reason: Reason, name: str | None = None) -> list[str]:
    told = EXPLANATIONS[reason]
    remedy = told.remedy if name is None else told.remedy.replace("NAME", name)
    found = ", ".join(told.conditions)
    return [
        str(reason),
        f"  means:    {told.meaning}",
        f"  to do:    {remedy}",
        f"  recovery: {RECOVERY[told.recovery]}",
        f"  found in: {found}",
    ]


def _run(found: View) -> Iterator[str]:
    yield f"{found.name}: {found.phase}: {found.message(now())}"
    conditions = [c for c in found.status.conditions if c.reason != Reason.AS_EXPECTED]
    for reason in dict.fromkeys(condition.reason for condition in conditions):
        mine = [condition for condition in conditions if condition.reason == reason]
        yield ""
        yield ", ".join(f"{condition.type} is {condition.status}" for condition in mine) + f": {mine[0].message}"
        yield from (f"  {line}" for line in _reason(reason, found.name)[:-1])
    failure = found.status.last_failure
    if failure is not None:
        yield ""
        yield f"the last failure, of {failure.stage} in iteration {failure.iteration}: {failure.message}"
        yield from (f"  {line}" for line in _reason(failure.reason, found.name)[:-1])
