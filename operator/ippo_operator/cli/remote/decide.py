"""`ippo approve`, `reject`, `suspend`, `resume`, `retry`: small changes of the spec, guarded by the version read."""

import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ippo_operator.api.status import IterationStatus, Reason
from ippo_operator.cli.errors import FAILED, OK, TRY_AGAIN, CommandError
from ippo_operator.cli.remote.connect import cluster, find
from ippo_operator.cli.remote.owners import warning
from ippo_operator.cli.remote.view import View, now, view
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
    said: str
    """Afterwards."""
    question: str = ""
    """What is decided, before it is written."""


def command(arguments: Namespace) -> int:
    """Changes the run as the verb says."""
    with cluster(arguments) as runs:
        change = _write(runs, arguments.run, _ASKED[arguments.command], arguments)
        print(change.said)
        if getattr(arguments, "wait", False):
            return _wait(runs, arguments.run, _SETTLED[arguments.command], arguments.timeout)
    return OK


def _write(runs: Runs, name: str, asked: Callable[[View, Namespace], Change], arguments: Namespace) -> Change:
    """Decides on what was just read, and writes only if it is still that; else reads and decides again."""
    asked_before = ""
    for _ in range(ATTEMPTS):
        raw = find(runs, name)
        change = asked(view(raw), arguments)
        if not change.patch:
            return change
        if change.question and change.question != asked_before:
            print(change.question)
            asked_before = change.question
        guard = {"resourceVersion": raw["metadata"]["resourceVersion"], "uid": raw["metadata"]["uid"]}
        try:
            runs.patch(name, {"metadata": guard, "spec": change.patch})
        except ConflictError:
            continue
        told = warning(raw, change.path)
        if told is not None:
            print(f"note: {told}", file=sys.stderr)
        return change
    raise CommandError(f"the run {name} changes all the time; try again", TRY_AGAIN)


def _suspend(found: View, _: Namespace) -> Change:
    if found.ended:
        raise CommandError(f"{found.name} has ended ({found.phase}); there is nothing to suspend")
    if found.spec.get("suspend"):
        return Change({}, "spec.suspend", f"{found.name} is suspended already")
    said = f"{found.name} is being suspended: the running stage saves its checkpoint"
    return Change({"suspend": True}, "spec.suspend", said)


def _resume(found: View, _: Namespace) -> Change:
    if not found.spec.get("suspend"):
        return Change({}, "spec.suspend", f"{found.name} is not suspended")
    return Change({"suspend": False}, "spec.suspend", f"{found.name} goes on")


def _retry(found: View, _: Namespace) -> Change:
    """Asks for one more attempt of the stage that stalled, and of a roll-out that failed."""
    failure = failures.pending(found.status) if found.status.is_true("Stalled") else None
    rollout = found.status.serving.failed if found.status.serving is not None else None
    if failure is None and rollout is None:
        raise CommandError(f"{found.name} has no stage that stalled ({found.phase}: {found.message(now())})")
    if failure is not None and failure.kind == "Uninformative":
        if rollout is None:
            raise CommandError(f"another attempt would come to the same: {failure.message}")
        failure = None
    asked = int((found.spec.get("retries") or {}).get("requested") or 0) + 1
    what = f"{failure.stage} of iteration {failure.iteration}" if failure is not None else "the roll-out"
    said = f"{what} of {found.name} is tried again"
    return Change({"retries": {"requested": asked}}, "spec.retries.requested", said)


def _approve(found: View, arguments: Namespace) -> Change:
    return _answer(found, arguments.iteration, approves=True)


def _reject(found: View, arguments: Namespace) -> Change:
    return _answer(found, arguments.iteration, approves=False)


def _answer(found: View, iteration: int | None, approves: bool) -> Change:
    promotion = found.spec.get("promotion") or {}
    waiting = approval.awaited(found.status)
    if promotion.get("mode") != "Manual":
        raise CommandError(f"{found.name} promotes by itself: spec.promotion.mode is not Manual, so nobody is asked")
    if found.ended:
        raise CommandError(f"{found.name} has ended ({found.phase}); no candidate waits")
    if iteration is None and waiting is None:
        raise CommandError(
            f"no candidate of {found.name} waits for an answer ({found.message(now())}); "
            "to answer ahead of time, name the iteration"
        )
    number = waiting.iteration if iteration is None and waiting is not None else int(iteration or 0)
    _check_open(found, number, waiting)
    yes, no = ("approve", "reject") if approves else ("reject", "approve")
    verb = "approved" if approves else "rejected"
    if promotion.get(yes) == number and promotion.get(no) != number:
        return Change({}, f"spec.promotion.{yes}", f"the candidate of iteration {number} is {verb} already")
    patch: dict[str, Any] = {yes: number}
    if promotion.get(no) == number:
        patch[no] = None
    here = waiting is not None and waiting.iteration == number
    said = f"the candidate of iteration {number} is {verb}" + (
        "" if here else ", once it is there and the gate lets it pass"
    )
    other = promotion.get(yes)
    if other is not None and other != number and other > _last_decided(found):
        said += f"; the one for iteration {other}, given before, is gone: spec.promotion.{yes} holds one"
    if found.spec.get("suspend"):
        said += f"; {found.name} is suspended, so that counts once it goes on: ippo resume {found.name}"
    question = "\n".join(_figures(waiting)) if here and waiting is not None else ""
    return Change({"promotion": patch}, f"spec.promotion.{yes}", said, question)


def _check_open(found: View, number: int, waiting: IterationStatus | None) -> None:
    """Raises CommandError if an answer for that iteration can have no effect any more."""
    if number > found.limit:
        raise CommandError(f"{found.name} has {found.limit} iterations (spec.iterations.max); given {number}")
    if waiting is not None and number < waiting.iteration:
        raise CommandError(
            f"iteration {number} is decided; the candidate that waits is of iteration {waiting.iteration}"
        )
    if number <= _last_decided(found):
        raise CommandError(f"iteration {number} of {found.name} is decided already; an answer is final")


def _last_decided(found: View) -> int:
    """The latest iteration with an answer; all before it have one, also those that the history has forgotten."""
    return max((row.iteration for row in found.status.iterations if row.promoted is not None), default=0)


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


def _wait(runs: Runs, name: str, settled: Callable[[View], bool], timeout: float) -> int:
    """Until the operator has done what the spec asks; 75 after `timeout` seconds."""
    until = time.monotonic() + timeout
    while True:
        try:
            found = view(runs.get(name))
        except NotFoundError:
            raise CommandError(f"the run {name} was deleted", FAILED) from None
        if settled(found):
            print(f"{name}: {found.phase}")
            return OK
        if time.monotonic() >= until:
            raise CommandError(f"{name} is still {found.phase} after {timeout:g} s: {found.message(now())}", TRY_AGAIN)
        time.sleep(INTERVAL)


def _rests(found: View) -> bool:
    return found.seen and found.phase in {"Suspended", "Succeeded", "Failed"}


def _goes_on(found: View) -> bool:
    return found.seen and found.phase not in {"Suspended", "Suspending"} and found.reason != Reason.SUSPENDED


def _tries(found: View) -> bool:
    return found.seen and found.well


_ASKED: dict[str, Callable[[View, Namespace], Change]] = {
    "suspend": _suspend,
    "resume": _resume,
    "retry": _retry,
    "approve": _approve,
    "reject": _reject,
}
_SETTLED = {"suspend": _rests, "resume": _goes_on, "retry": _tries}
