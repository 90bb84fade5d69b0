"""Every state a run can be in, and what GitOps tools have to make of it.

`kstatus` is what Flux and `kubectl`-like tools say: InProgress, Current, Failed or Terminating. `health` is Argo CD's:
Progressing, Healthy, Degraded or Suspended. Both are written down by hand; the objects come from the planner.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from ippo_operator.api.reasons import Reason
from ippo_operator.plan.types import JobFailure

from tests.kit.live_world import LiveCluster

from . import worlds
from .worlds import Object, begun, driven, edited, ended_once, fails, gate, seen, shown, stage_ends, suspending

DELETION = {"deletionTimestamp": "2026-01-31T12:30:00Z", "finalizers": ["foregroundDeletion"]}


class State(NamedTuple):
    """A run in some state, and the answers that are right."""

    name: str
    make: Callable[[], Object]
    kstatus: str
    health: str
    actions: str
    """Those that apply, in alphabetical order."""


def _of(world: Callable[[], worlds.Recorded]) -> Callable[[], Object]:
    return lambda: world().now_shown


def _fresh(**spec: Any) -> worlds.Recorded:
    return worlds.Recorded(worlds.make_run(**spec))


def _one(**spec: Any) -> dict[str, Any]:
    return {"iterations": {"max": 1}, **spec}


def _working(name: str, world: Callable[[], worlds.Recorded]) -> State:
    return State(name, _of(world), "InProgress", "Progressing", "suspend")


def _live(name: str, world: Callable[[], LiveCluster], actions: str = "suspend") -> State:
    return State(name, lambda: shown(world().run), "InProgress", "Progressing", actions)


def _stalled(name: str, world: Callable[[], worlds.Recorded]) -> State:
    return State(name, _of(world), "Failed", "Degraded", "")


def _done(name: str, world: Callable[[], worlds.Recorded]) -> State:
    return State(name, _of(world), "Current", "Healthy", "")


def _leaving(name: str, world: Callable[[], worlds.Recorded]) -> State:
    return State(name, lambda: shown(world().run, **DELETION), "Terminating", "Progressing", "")


_STATES: tuple[State, ...] = (
    # Not begun
    _working("nobody looked at it yet", _fresh),
    State("suspended before anybody looked", _of(lambda: _fresh(suspend=True)), "InProgress", "Progressing", "resume"),
    State("created suspended", _of(lambda: seen(_fresh(suspend=True))), "InProgress", "Suspended", "resume"),
    # At work
    _working("the first stage's job was created", begun),
    _working("the first stage runs", lambda: seen(begun())),
    _working("waits for quota", lambda: worlds.waiting_for(Reason.WAITING_FOR_QUOTA)),
    _working("no node takes its pods", lambda: worlds.waiting_for(Reason.UNSCHEDULABLE)),
    _working("its image cannot be pulled", lambda: worlds.waiting_for(Reason.IMAGE_PULL_FAILED)),
    _working("its pods are refused", lambda: worlds.waiting_for(Reason.POD_REFUSED)),
    _working("its pods do not start", lambda: worlds.waiting_for(Reason.POD_NOT_STARTED)),
    _working("somebody suspended its job", lambda: worlds.waiting_for(Reason.JOB_PAUSED)),
    _working("its job is refused", worlds.refused),
    _working("its pods waited for too long", worlds.pending_too_long),
    # Trouble that passes
    _working("waits to retry what waited for too long", lambda: _gone(worlds.pending_too_long())),
    _working("waits to retry what was not ready", lambda: ended_once(JobFailure(75, "the store is down"))),
    _working("waits to retry a crash", lambda: ended_once(JobFailure(1, "boom"))),
    _working("goes on after a disruption", lambda: ended_once(JobFailure(143, "told to stop"))),
    _working("goes on after its job was lost", lambda: ended_once(None)),
    # Suspended
    State(
        "suspended while a stage runs, unseen",
        _of(lambda: edited(seen(begun()), suspend=True)),
        "InProgress",
        "Progressing",
        "resume",
    ),
    State("the stage saves its checkpoint", _of(suspending), "InProgress", "Progressing", "resume"),
    State(
        "suspended",
        _of(lambda: seen(edited(seen(begun()), suspend=True), 2)),
        "InProgress",
        "Suspended",
        "resume",
    ),
    _working("resumed, unseen", lambda: edited(seen(edited(seen(begun()), suspend=True), 2), suspend=False)),
    _working("resumed", lambda: seen(edited(seen(edited(seen(begun()), suspend=True), 2), suspend=False))),
    # A human is asked
    State("awaits approval", _of(worlds.awaiting), "InProgress", "Suspended", "approve reject suspend"),
    State(
        "awaits approval and is suspended",
        _of(lambda: seen(edited(worlds.awaiting(), suspend=True))),
        "InProgress",
        "Suspended",
        "approve reject resume",
    ),
    _working("approved, unseen", lambda: worlds.answered(approve=1)),
    _working("approved", lambda: seen(worlds.answered(approve=1))),
    _working("rejected, unseen", lambda: worlds.answered(reject=1)),
    _working("rejected", lambda: seen(worlds.answered(reject=1))),
    # Customers decide
    _live("waits for live conversations", worlds.waits_for_customers),
    _live("waits for live conversations without a gateway", worlds.without_gateway),
    _live("the name of its gateway is taken", lambda: worlds.without_gateway(Reason.CHILD_CONFLICT)),
    _live(
        "a candidate's servers crash",
        lambda: worlds.under_test(trouble=Reason.SERVER_FAILED),
        "approve reject suspend",
    ),
    _live("a candidate is under test", worlds.under_test, "approve reject suspend"),
    _live("customers refused a candidate", lambda: worlds.under_test("Reject")),
    _live("a test had no answer", lambda: worlds.under_test("Inconclusive")),
    # Nothing goes on until someone mends it
    _stalled("the spec of a stage is wrong", lambda: driven(fails("collect", 64, "spec.seed"))),
    _stalled("its data is wrong", lambda: driven(fails("fit-q", 65, "no outcome"))),
    _stalled("Q is uninformative", lambda: driven(stage_ends("fit-q", informative=False))),
    _stalled("crashed too often", lambda: driven(fails("improve", 1, "boom"))),
    _stalled("its results cannot be read", lambda: driven(worlds.without_result)),
    _stalled("its name is taken", worlds.of_another),
    _stalled("a rule refuses its spec", worlds.broken),
    State(
        "its spec cannot be read",
        lambda: worlds.unreadable(seen(begun())),
        "Failed",
        "Degraded",
        "suspend",
    ),
    State(
        "its artifacts are another run's",
        lambda: worlds.reported(seen(begun()), "another run's", Reason.ARTIFACTS_IN_USE),
        "Failed",
        "Degraded",
        "suspend",
    ),
    State(
        "its spec cannot be read, and nobody looked before",
        lambda: worlds.unreadable(_fresh()),
        "Failed",
        "Degraded",
        "suspend",
    ),
    State(
        "its spec cannot be read while it is suspended",
        lambda: worlds.unreadable(seen(_fresh(suspend=True))),
        "Failed",
        "Degraded",
        "resume",
    ),
    State(
        "retries raised after it stalled, unseen",
        _of(lambda: edited(_crashed(), retries={"crashes": 9})),
        "InProgress",
        "Progressing",
        "",
    ),
    _working("retries raised after it stalled", lambda: seen(edited(_crashed(), retries={"crashes": 9}))),
    # Done
    _done("all iterations are done", lambda: driven(**_one())),
    _done("the gate refused the last candidate", lambda: driven(gate("Reject"), **_one())),
    _done("the gate could not tell", lambda: driven(gate("Inconclusive"), **_one())),
    _done(
        "stopWhen ended it",
        lambda: driven(gate("Reject"), iterations={"max": 3, "stopWhen": {"consecutiveRejections": 1}}),
    ),
    State(
        "done, and suspended afterwards",
        _of(lambda: seen(edited(driven(**_one()), suspend=True))),
        "Current",
        "Healthy",
        "resume",
    ),
    State(
        "done, suspended afterwards, unseen",
        _of(lambda: edited(driven(**_one()), suspend=True)),
        "InProgress",
        "Progressing",
        "resume",
    ),
    # Done, and serving
    _done("its servers are ready", worlds.serving),
    State("its servers are not ready yet", _of(worlds.set_up_anew), "InProgress", "Progressing", ""),
    State("its servers crash", _of(worlds.crashing), "InProgress", "Progressing", ""),
    State("its servers are not reached", _of(worlds.unreached), "InProgress", "Progressing", ""),
    _stalled("its servers were rolled back", worlds.late),
    _stalled("its servers were late and are left so", lambda: worlds.late(onFailure="Hold")),
    _stalled("nobody named an image with the server", lambda: _driven(worlds.without_server_image())),
    _working("at work, and nobody named an image with the server", worlds.at_work_without_server_image),
    # Done, and then more
    State(
        "iterations.max raised after it was done, unseen",
        _of(lambda: edited(driven(**_one()), iterations={"max": 2})),
        "InProgress",
        "Progressing",
        "",
    ),
    _working("iterations.max raised after it was done", lambda: seen(edited(driven(**_one()), iterations={"max": 2}))),
    # Being deleted
    _leaving("deleted unseen", _fresh),
    _leaving("deleted at work", begun),
    _leaving("deleted when done", lambda: driven(**_one())),
    _leaving("deleted while a human is asked", worlds.awaiting),
)


def _driven(world: worlds.Recorded) -> worlds.Recorded:
    world.drive()
    return world


def _gone(world: worlds.Recorded) -> worlds.Recorded:
    world.jobs.clear()
    return seen(world)


def _crashed() -> worlds.Recorded:
    return driven(fails("collect", 1, "boom"))


def _once(make: Callable[[], Object]) -> Callable[[], Object]:
    """The run is driven to its state once; whoever asks gets a copy."""
    cached = functools.cache(make)
    return lambda: copy.deepcopy(cached())


STATES = tuple(state._replace(make=_once(state.make)) for state in _STATES)
