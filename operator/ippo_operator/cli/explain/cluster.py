"""`ippo explain`: the reasons in words; of one, of all, or those that a run gives now."""

import difflib
from argparse import Namespace
from collections.abc import Iterator

from ippo_operator.api.reasons import RECOVERY, Reason
from ippo_operator.cli.cluster_flags import written_flags
from ippo_operator.cli.clusters import cluster, find
from ippo_operator.cli.errors import OK, CommandError
from ippo_operator.cli.run_view import RunView

_WIDTH = max(len(reason) for reason in Reason)


def command(arguments: Namespace) -> int:
    """Prints the reason. Reasons begin with a capital letter, names of runs never do."""
    topic = arguments.topic
    if topic is None:
        print("\n".join(f"{reason:{_WIDTH}}  {reason.meaning}" for reason in Reason))
        return OK
    reasons = {reason.lower(): reason for reason in Reason}
    reason = reasons.get(topic.lower())
    if reason is not None and not written_flags(arguments):
        print("\n".join(_reason(reason)))
        return OK
    if topic[:1].isupper():
        near = [reasons[name] for name in difflib.get_close_matches(topic.lower(), reasons, n=3, cutoff=0.5)]
        hint = f"did you mean {' or '.join(near)}?" if near else "see them all with: ippo explain"
        raise CommandError(f"there is no reason {topic}; {hint}")
    with cluster(arguments) as runs:
        print("\n".join(_run(find(runs, topic))))
    return OK


def _reason(reason: Reason, name: str = "NAME") -> list[str]:
    return [
        str(reason),
        f"  means:    {reason.meaning}",
        f"  to do:    {reason.remedy_of(name)}",
        f"  recovery: {RECOVERY[reason.recovery]}",
        f"  found in: {', '.join(reason.places)}",
    ]


def _run(run: RunView) -> Iterator[str]:
    yield f"{run.name}: {run.phase}: {run.message}"
    conditions = [c for c in run.status.conditions if c.reason != Reason.AS_EXPECTED]
    for reason in dict.fromkeys(condition.reason for condition in conditions):
        same_reason = [condition for condition in conditions if condition.reason == reason]
        yield ""
        yield (
            ", ".join(f"{condition.type} is {condition.status}" for condition in same_reason)
            + f": {same_reason[0].message}"
        )
        yield from (f"  {line}" for line in _reason(reason, run.name)[:-1])
    failure = run.status.last_failure
    if failure is not None:
        yield ""
        yield f"the last failure, of {failure.stage} in iteration {failure.iteration}: {failure.message}"
        yield from (f"  {line}" for line in _reason(failure.reason, run.name)[:-1])
