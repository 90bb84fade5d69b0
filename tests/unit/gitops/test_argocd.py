"""Argo CD's Lua: messages, actions, and the ConfigMap that carries both."""

from typing import Any

import pytest
import yaml
from ippo_operator.api import changes
from ippo_operator.api.load import parse_run

from . import customization, lua, worlds
from .states import STATES, State
from .worlds import Object

EACH = pytest.mark.parametrize("state", STATES, ids=[state.name for state in STATES])
SETS: dict[str, dict[str, Any]] = {
    "suspend": {"suspend": True},
    "resume": {"suspend": False},
    "approve": {"promotion": {"approve": 1}},
    "reject": {"promotion": {"reject": 1}},
}
REASONS = {"approve": "Promoted", "reject": "NotApproved"}
SAID = {
    "nobody looked at it yet": "waits for the operator's first look",
    "the first stage runs": "0/3 iterations done: warm-start of iteration 0, attempt 1",
    "waits to retry what was not ready": (
        "0/3 iterations done: tried again from 2026-01-31T12:00:10Z: iteration 0 warm-start: the store is down"
    ),
    "suspended": "0/3 iterations done: spec.suspend is true; set it to false to go on",
    "awaits approval": (
        "0/2 iterations done: the candidate of iteration 1 waits for spec.promotion.approve: 1 or reject: 1. "
        "The gate: better"
    ),
    "at work, and nobody named an image with the server": (
        "0/1 iterations done: collect of iteration 1, attempt 1; spec.pods.serve.image is missing"
    ),
    "approved, unseen": "waits for the operator to see the latest change of the spec",
    "its data is wrong": "iteration 1 fit-q: no outcome. Tried again once spec.retries.requested, spec.pods or the "
    "address in spec.artifacts.s3 changes.",
    "its spec cannot be read, and nobody looked before": "spec.device is tpu",
    "all iterations are done": "1 of 1 iterations are done",
    "deleted at work": "the run is being deleted",
}


def of(name: str) -> Object:
    [state] = [state for state in STATES if state.name == name]
    return state.make()


@pytest.mark.parametrize("name", SAID)
def test_the_message_says_where_the_run_stands(name: str) -> None:
    assert lua.health(of(name))["message"] == SAID[name]


@EACH
def test_an_action_changes_one_field_of_the_spec_and_may(state: State) -> None:
    before = state.make()
    for name in state.actions.split():
        after = lua.act(name, before)
        changed = {key: _over(before["spec"].get(key), value) for key, value in SETS[name].items()}
        wanted = before | {"spec": before["spec"] | changed}
        assert _without_empty(after) == _without_empty(wanted)
        if "cannot be read" not in state.name:
            assert changes.problems(parse_run(before).spec, parse_run(wanted).spec) == []


def _over(value: Any, change: Any) -> Any:
    """A field of the spec after its change: sections keep their other fields."""
    return {**value, **change} if isinstance(change, dict) else change


def _without_empty(value: Any) -> Any:
    """Lua has one empty table for empty sections and empty lists."""
    if isinstance(value, dict):
        return {key: _without_empty(child) for key, child in value.items() if child not in ({}, [])}
    return [_without_empty(child) for child in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", REASONS)
def test_the_planner_takes_the_answer(name: str) -> None:
    world = worlds.awaiting()
    after = lua.act(name, world.now_shown)
    worlds.seen(worlds.edited(world, promotion=after["spec"]["promotion"]))
    promoted = [c["reason"] for c in world.now_shown["status"]["conditions"] if c["type"] == "Promoted"]
    assert promoted == [REASONS[name]]


@pytest.mark.parametrize("name", REASONS)
@pytest.mark.parametrize("state", ["nobody looked at it yet", "the first stage runs", "all iterations are done"])
def test_without_a_question_there_is_no_answer(name: str, state: str) -> None:
    with pytest.raises(Exception, match="no candidate of this run waits for an answer"):
        lua.act(name, of(state))


def test_an_answer_for_an_earlier_iteration_does_not_count_for_the_next() -> None:
    world = worlds.answered(approve=1)
    world.drive()
    assert lua.enabled(world.now_shown) == ["approve", "reject", "suspend"]
    assert lua.act("reject", world.now_shown)["spec"]["promotion"] == {"mode": "Manual", "approve": 1, "reject": 2}


@pytest.mark.parametrize(
    "status",
    [None, {}, {"conditions": []}, {"observedGeneration": 1}, {"observedGeneration": 1, "conditions": []}],
)
def test_a_status_that_says_nothing_is_progress(status: Object | None) -> None:
    item = worlds.shown(worlds.make_run())
    del item["status"]
    item |= {"status": status} if status is not None else {}
    answer = lua.health(item)
    assert answer["status"] == "Progressing"
    assert answer["message"]
    assert lua.enabled(item) == ["suspend"]


def test_a_manifest_without_any_optional_field_will_do() -> None:
    item: Object = {"metadata": {"generation": 1}, "spec": {}}
    assert lua.act("suspend", item)["spec"] == {"suspend": True}
    status = {"iterations": [{"iteration": 3, "decision": {"outcome": "Promote", "reason": "better"}}]}
    assert lua.act("approve", item | {"status": status})["spec"] == {"promotion": {"approve": 3}}


def test_the_config_map_is_made_from_these_files() -> None:
    text = customization.CONFIG_MAP.read_text()
    assert text == customization.to_yaml(), "python -m tests.unit.gitops.customization"
    data = yaml.safe_load(text)["data"]
    assert data["resource.customizations.health.ippo.dev_IterativePPORun"] == (lua.FILES / "health.lua").read_text()
    actions = yaml.safe_load(data["resource.customizations.actions.ippo.dev_IterativePPORun"])
    folder = lua.FILES / "actions"
    assert actions["discovery.lua"] == (folder / "discovery.lua").read_text()
    found = {entry["name"]: entry["action.lua"] for entry in actions["definitions"]}
    assert found == {name: (folder / f"{name}.lua").read_text() for name in lua.ACTIONS}
    assert {path.stem for path in folder.iterdir()} == {"discovery", *lua.ACTIONS}
