"""`ippo approve`, `reject`, `suspend`, `resume`, `retry`: small changes of the spec, guarded by the version read."""

import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ippo_trainer.contract.stages import COLLECT

from ippo_operator.api.reasons import Reason
from ippo_operator.api.status import IterationStatus
from ippo_operator.cli.clusters import cluster, find
from ippo_operator.cli.decide.owners import warning
from ippo_operator.cli.errors import FAILED, OK, TRY_AGAIN, CommandError
from ippo_operator.cli.run_view import RunView, cluster_view
from ippo_operator.cluster.errors import ConflictError, NotFoundError
from ippo_operator.cluster.remote.runs import Object, Runs
from ippo_operator.plan import approval, failures

ATTEMPTS = 5
INTERVAL = 1.0


@dataclass(frozen=True)
class Change:
    """What to write, and what to say."""

    patch: Object
    """Of the spec."""
    path: str
    """The field that matters."""
    confirmation: str
    """What is printed afterwards."""
    question: str = ""
    """What is decided, printed before the change is written."""


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
    return _answer(run, arguments.iteration, approves=True)


def _reject(run: RunView, arguments: Namespace) -> Change:
    return _answer(run, arguments.iteration, approves=False)


def _answer(run: RunView, iteration: int | None, approves: bool) -> Change:
    promotion = run.spec.get("promotion") or {}
    waiting = approval.awaited(run.status)
    if promotion.get("mode") != "Manual" and (run.spec.get(COLLECT) or {}).get("simulate") is not None:
        raise CommandError(f"{run.name} promotes by itself: spec.promotion.mode is not Manual, so nobody is asked")
    if run.ended:
        raise CommandError(f"{run.name} has ended ({run.phase}); no candidate waits")
    if iteration is None and waiting is None:
        raise CommandError(
            f"no candidate of {run.name} waits for an answer ({run.message}); "
            "to answer ahead of time, name the iteration"
        )
    number = waiting.iteration if iteration is None and waiting is not None else int(iteration or 0)
    _check_open(run, number, waiting)
    yes, no = ("approve", "reject") if approves else ("reject", "approve")
    verb = "approved" if approves else "rejected"
    if promotion.get(yes) == number and promotion.get(no) != number:
        return Change({}, f"spec.promotion.{yes}", f"the candidate of iteration {number} is {verb} already")
    patch: dict[str, Any] = {yes: number}
    if promotion.get(no) == number:
        patch[no] = None
    here = waiting is not None and waiting.iteration == number
    confirmation = f"the candidate of iteration {number} is {verb}"
    if not here:
        confirmation += ", once it is there and the gate lets it pass"
    other = promotion.get(yes)
    if other is not None and other != number and other > _last_decided(run):
        confirmation += f"; the one for iteration {other}, given before, is gone: spec.promotion.{yes} holds one"
    if run.spec.get("suspend"):
        confirmation += f"; {run.name} is suspended, so that counts once it goes on: ippo resume {run.name}"
    question = "\n".join(_figures(waiting)) if here and waiting is not None else ""
    return Change({"promotion": patch}, f"spec.promotion.{yes}", confirmation, question)


def _check_open(run: RunView, number: int, waiting: IterationStatus | None) -> None:
    """Raises CommandError if an answer for that iteration can have no effect any more."""
    if number > run.limit:
        raise CommandError(f"{run.name} has {run.limit} iterations (spec.iterations.max); given {number}")
    if waiting is not None and number < waiting.iteration:
        raise CommandError(
            f"iteration {number} is decided; the candidate that waits is of iteration {waiting.iteration}"
        )
    if number <= _last_decided(run):
        raise CommandError(f"iteration {number} of {run.name} is decided already; an answer is final")


def _last_decided(run: RunView) -> int:
    """The latest iteration with an answer; all before it have one, also those that the history has forgotten."""
    return max((row.iteration for row in run.status.iterations if row.promoted is not None), default=0)


def _figures(waiting: IterationStatus) -> list[str]:
    metrics = waiting.metrics
    text = [f"the candidate of iteration {waiting.iteration}, beside the policy before it:"]
    for name, form in (("success", ".1%"), ("value", ".4f")):
        if name in metrics and f"{name}Current" in metrics:
            change = metrics[name] - metrics[f"{name}Current"]
            pair = f"{metrics[name]:{form}}  (before {metrics[f'{name}Current']:{form}}, {change:+{form}})"
            text.append(f"  {name:8} {pair}")
    if waiting.decision is not None:
        text.append(f"  the gate: {waiting.decision.reason}")
    return text


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
