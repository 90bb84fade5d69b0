"""What kstatus and Argo CD make of a run, in every state that the planner can bring it to."""

import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from ippo_operator.api.reasons import Reason
from ippo_operator.api.resource import RunSpec
from ippo_operator.api.status import RunStatus
from ippo_operator.cli.run_view import ShownPhase, cluster_view
from ippo_operator.plan.phase import PhaseName, phase

from tests.kit.places import misplaced
from tests.kit.planner_world import START

from . import lua, worlds
from .kstatus_rules import kstatus
from .states import DELETION, STATES, State
from .worlds import Object

EACH = pytest.mark.parametrize("state", STATES, ids=[state.name for state in STATES])
AGREE = {
    ("InProgress", "Progressing"),
    ("InProgress", "Suspended"),
    ("Failed", "Degraded"),
    ("Current", "Healthy"),
    ("Terminating", "Progressing"),
}
"""What the two may say about the same object."""


@EACH
def test_kstatus_is_right(state: State) -> None:
    assert kstatus(state.make()) == state.kstatus


@EACH
def test_argo_cd_is_right(state: State) -> None:
    answer = lua.health(state.make())
    assert set(answer) == {"status", "message"}
    assert answer["status"] == state.health
    assert re.fullmatch(r"[^\n]{5,}", answer["message"])


@EACH
def test_the_actions_that_apply(state: State) -> None:
    assert " ".join(lua.enabled(state.make())) == state.actions


@EACH
def test_an_edit_that_nobody_saw_is_work_to_do(state: State) -> None:
    item = state.make()
    item["metadata"]["generation"] += 1
    deleted = "deletionTimestamp" in item["metadata"]
    assert kstatus(item) == ("Terminating" if deleted else "InProgress")
    assert lua.health(item)["status"] == "Progressing"


@EACH
def test_a_deletion_comes_before_all_else(state: State) -> None:
    item = state.make()
    item["metadata"] |= DELETION
    assert kstatus(item) == "Terminating"
    assert lua.health(item) == {"status": "Progressing", "message": "the run is being deleted"}
    assert lua.enabled(item) == []


SHOWN: dict[PhaseName, ShownPhase] = {"Invalid": "Failed", "NotServed": "Succeeded", "RollingOut": "Running"}
"""What `ippo` calls phases of the planner; it calls the others as the planner does. What the iterations came to is not
the servers' fault."""


@EACH
def test_ippo_and_the_planner_agree_where_a_run_stands(state: State) -> None:
    """As long as the operator has seen the newest spec, and read it."""
    item = state.make()
    view, spec = cluster_view(item), RunSpec.model_validate_json(json.dumps(item["spec"]))
    failure = view.status.last_failure
    stands = phase(spec, view.status, failure.time if failure is not None else START)
    if "deletionTimestamp" in item["metadata"]:
        assert view.phase == "Terminating"
    elif not view.observed:
        assert view.phase == "Pending" or state.name.endswith("unseen")
    elif (condition := view.condition) is not None and condition.message == stands.message:
        assert view.phase == SHOWN.get(stands.name, stands.name)
    else:
        assert view.phase == "Failed", "refused outside of the planner"


@EACH
def test_reasons_are_found_where_their_page_says(state: State) -> None:
    assert misplaced(state.make()["status"]) == set()


def test_every_phase_and_every_reason_has_a_state() -> None:
    phases, reasons = set(), set()
    for item in (state.make() for state in STATES):
        status = item["status"]
        reasons |= set(_reasons({key: value for key, value in status.items() if key != "iterations"}))
        spec = RunSpec.model_validate_json(json.dumps(item["spec"]))
        phases.add(phase(spec, RunStatus.model_validate_json(json.dumps(status)), START).name)
    assert phases == set(get_args(PhaseName))
    assert reasons == {str(reason) for reason in Reason}


def _reasons(value: Any) -> Iterator[str]:
    """Of conditions, failures and whatever is waited for."""
    if isinstance(value, dict):
        yield from [value["reason"]] if "reason" in value else ()
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        yield from _reasons(child)


def journeys() -> Iterator[worlds.Recorded]:
    """Whole lives of runs."""
    yield worlds.driven()
    yield worlds.driven(worlds.gate("Reject"))
    yield worlds.driven(worlds.fails("improve", 75, "the store is down"))
    yield worlds.driven(worlds.fails("evaluate", 65, "no outcome"))
    yield worlds.driven(worlds.stage_ends("fit-q", informative=False))
    more = worlds.driven(iterations={"max": 1})
    worlds.edited(more, iterations={"max": 2}).drive()
    yield more
    paused = worlds.begun()
    worlds.edited(paused, suspend=True).drive()
    worlds.edited(paused, suspend=False).drive()
    yield paused
    for served in (worlds.serving(), worlds.set_up_anew(), worlds.crashing(), worlds.without_server_image()):
        served.drive()
        yield served
    asked = worlds.awaiting()
    for answer in ({"approve": 1}, {"approve": 1, "reject": 2}):
        worlds.edited(asked, promotion={"mode": "Manual", **answer}).drive()
    yield asked


def test_both_agree_at_every_moment_of_a_life() -> None:
    seen = worlds.everything_seen(journeys())
    assert len(seen) > 100
    for item in seen:
        assert (kstatus(item), lua.health(item)["status"]) in AGREE
        assert not (_true(item, "Reconciling") and _true(item, "Stalled"))
        observed = item["status"]["observedGeneration"] == item["metadata"]["generation"]
        assert (kstatus(item) == "Current") == (observed and _true(item, "Ready"))


def _true(item: Object, kind: str) -> bool:
    found = [condition["status"] for condition in item["status"].get("conditions", ()) if condition["type"] == kind]
    return found == ["True"]


def test_a_finished_run_is_never_seen_at_work_again() -> None:
    world = worlds.driven()
    after = [kstatus(worlds.seen(world).now_shown) for _ in range(5)]
    assert after == ["Current"] * 5
    statuses = [kstatus(item) for item in world.seen]
    assert statuses == sorted(statuses, key=["InProgress", "Current"].index)
