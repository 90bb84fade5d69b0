"""A status that 0.2 wrote, with the names that some fields had there: it is read, and written with those of now."""

import json
from typing import Any

import pytest
from ippo_operator.api.crd import custom_resource_definition
from ippo_operator.api.status import RunStatus
from ippo_operator.plan.planner import plan
from ippo_trainer.contract.spec import StoreLocation

from tests.kit.planner_world import START, make_run

FORMER = {"seen": "observed", "waits": "waiting", "since": "waitingSince"}
WAITING = {"reason": "Unschedulable", "message": "no node takes it"}
DIGEST = f"sha256:{'7' * 64}"
SERVED = {"iteration": 0, "digest": DIGEST, "key": "iterations/0000/policy/x", "settings": DIGEST}
BEFORE: dict[str, Any] = {
    "stage": "warm-start",
    "attempt": 1,
    "active": {
        "jobName": "small-i0-warm-start-a1-0a1b2c3d",
        "inputDigest": DIGEST,
        "createdAt": "2026-01-31T12:00:00Z",
        "seen": True,
        "waits": WAITING,
    },
    "serving": {"target": SERVED, "since": "2026-01-31T12:00:00Z", "waits": WAITING, "blocked": WAITING},
}


def renamed(value: Any) -> Any:
    """With the names of now."""
    if isinstance(value, dict):
        return {FORMER.get(name, name): renamed(child) for name, child in value.items()}
    return value


def read(status: dict[str, Any]) -> RunStatus:
    return RunStatus.model_validate_json(json.dumps(status), by_alias=True, by_name=False)


def test_both_names_are_read_and_one_is_written() -> None:
    assert read(BEFORE) == read(renamed(BEFORE))
    assert read(BEFORE) == RunStatus.model_validate_json(json.dumps(BEFORE)), "as in a run's folder"
    written = read(BEFORE).model_dump(mode="json", by_alias=True, exclude_none=True)
    assert written["active"].items() >= renamed(BEFORE)["active"].items()
    assert not [name for section in ("active", "serving") for name in FORMER if name in written[section]]


def test_the_crd_keeps_what_0_2_wrote() -> None:
    """The API server drops fields that the CRD does not have, also from objects that are stored."""
    [version] = custom_resource_definition()["spec"]["versions"]
    status = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    for section, names in (("active", {"seen", "waits"}), ("serving", {"since", "waits"})):
        fields = status[section]["properties"]
        assert names <= fields.keys()
        for former in names:
            now = {key: value for key, value in fields[FORMER[former]].items() if key != "description"}
            assert {key: value for key, value in fields[former].items() if key != "description"} == now
            assert fields[former]["description"].startswith(f"Deprecated: {FORMER[former]},")


@pytest.mark.parametrize("status", [BEFORE, renamed(BEFORE)], ids=["0.2", "now"])
def test_a_job_that_0_2_saw_and_that_is_gone_is_lost_not_made_again(status: dict[str, Any]) -> None:
    run = make_run().model_copy(update={"status": read(status)})
    after = plan(run, (), START, StoreLocation(directory="/artifacts")).status
    assert after.last_failure is not None
    assert after.last_failure.kind == "Disruption"
