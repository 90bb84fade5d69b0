"""`ippo approve`, `reject`, `suspend`, `resume`, `retry`: small changes of the spec, guarded by the version read."""

import sys
import time
from argparse import Namespace
from collections.abc import Callable

from ippo_operator.api.reasons import Reason
from ippo_operator.cli.clusters import cluster, find
from ippo_operator.cli.decide.answers import Change, answer
from ippo_operator.cli.decide.owners import warning
from ippo_operator.cli.errors import FAILED, OK, TRY_AGAIN, CommandError
from ippo_operator.cli.run_view import RunView, cluster_view
from ippo_operator.cluster.errors import ConflictError, NotFoundError
from ippo_operator.cluster.remote.runs import Runs
from ippo_operator.plan import failures

ATTEMPTS = 5
INTERVAL = 1.0


def command(arguments: Namespace) -> int:
    """Changes the run as the verb says."""
    with cluster(arguments) as runs:
        change = _write(runs, _CHANGES[arguments.command], arguments)
        print(change.confirmation)
        if getattr(arguments, "wait", False):
            return _wait(runs, arguments.run, _SETTLED[arguments.command], arguments.timeout)
    return OK


def _write(runs: Runs, decide: Callable[[RunView, Namespace], Change], arguments: Namespace) -> Change:
    """Decides on what was just read, and writes only if it is still that; else reads and decides again."""
    last_question = ""
    for _ in range(ATTEMPTS):
        run = find(runs, arguments.run)
        change = decide(run, arguments)
        if not change.patch:
            return change
        if change.question and change.question != last_question:
            print(change.question)
            last_question = change.question
        guard = {name: run.raw["metadata"][name] for name in ("resourceVersion", "uid")}
        try:
            runs.patch(run.name, {"metadata": guard, "spec": change.patch})
        except ConflictError:
            continue
        note = warning(run.raw, change.path)
        if note is not None:
            print(f"note: {note}", file=sys.stderr)
        return change
    raise CommandError(f"the run {arguments.run} changes all the time; try again", TRY_AGAIN)


def _suspend(run: RunView, _: Namespace) -> Change:
    if run.ended:
        raise CommandError(f"{run.name} has ended ({run.phase}); there is nothing to suspend")
    if run.spec.get("suspend"):
        return Change({}, "spec.suspend", f"{run.name} is suspended already")
    confirmation = f"{run.name} is being suspended: the running stage saves its checkpoint"
    return Change({"suspend": True}, "spec.suspend", confirmation)


def _resume(run: RunView, _: Namespace) -> Change:
    if not run.spec.get("suspend"):
        return Change({}, "spec.suspend", f"{run.name} is not suspended")
    return Change({"suspend": False}, "spec.suspend", f"{run.name} goes on")


def _retry(run: RunView, _: Namespace) -> Change:
    """Asks for one more attempt of the stage that stalled, and of a roll-out that failed."""
    failure = failures.pending(run.status) if run.status.is_true("Stalled") else None
    rollout = run.status.serving.failed if run.status.serving is not None else None
    if failure is None and rollout is None:
        raise CommandError(f"{run.name} has no stage that stalled ({run.phase}: {run.message})")
    if failure is not None and failure.kind == "Uninformative":
        if rollout is None:
            raise CommandError(f"another attempt would come to the same: {failure.message}")
        failure = None
    requested = int((run.spec.get("retries") or {}).get("requested") or 0) + 1
    what = f"{failure.stage} of iteration {failure.iteration}" if failure is not None else "the roll-out"
    confirmation = f"{what} of {run.name} is tried again"
    return Change({"retries": {"requested": requested}}, "spec.retries.requested", confirmation)


def _approve(run: RunView, arguments: Namespace) -> Change:
    return answer(run, arguments.iteration, approves=True)


def _reject(run: RunView, arguments: Namespace) -> Change:
    return answer(run, arguments.iteration, approves=False)


def _wait(runs: Runs, name: str, settled: Callable[[RunView], bool], timeout: float) -> int:
    """Until the operator has done what the spec asks; 75 after `timeout` seconds."""
    until = time.monotonic() + timeout
    while True:
        try:
            run = cluster_view(runs.get(name))
        except NotFoundError:
            raise CommandError(f"the run {name} was deleted", FAILED) from None
        if settled(run):
            print(f"{name}: {run.phase}")
            return OK
        if time.monotonic() >= until:
            raise CommandError(f"{name} is still {run.phase} after {timeout:g} s: {run.message}", TRY_AGAIN)
        time.sleep(INTERVAL)


def _rests(run: RunView) -> bool:
    return run.observed and run.phase in {"Suspended", "Succeeded", "Failed"}


def _goes_on(run: RunView) -> bool:
    return run.observed and run.phase not in {"Suspended", "Suspending"} and run.reason != Reason.SUSPENDED


def _tries(run: RunView) -> bool:
    return run.observed and run.well


_CHANGES: dict[str, Callable[[RunView, Namespace], Change]] = {
    "suspend": _suspend,
    "resume": _resume,
    "retry": _retry,
    "approve": _approve,
    "reject": _reject,
}
_SETTLED = {"suspend": _rests, "resume": _goes_on, "retry": _tries}
