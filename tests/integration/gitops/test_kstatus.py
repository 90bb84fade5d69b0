"""The real kstatus on runs in every state of the planner."""

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kit.lab import find_program
from tests.unit.gitops import worlds
from tests.unit.gitops.kstatus_rules import kstatus
from tests.unit.gitops.states import STATES
from tests.unit.gitops.test_states import journeys


@pytest.fixture(scope="module")
def program() -> Path:
    program = find_program("kstatus")
    if program is None:
        pytest.skip("needs the program kstatus (reads `kubectl get -o yaml`): $KSTATUS, on the PATH, or in a lab")
    return program


def answers(program: Path, items: Iterable[dict[str, Any]]) -> list[str]:
    """What kstatus says of each."""
    text = yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": list(items)})
    done = subprocess.run([str(program)], input=text, capture_output=True, text=True, check=True, timeout=60)
    return [line.split("\t")[0] for line in done.stdout.splitlines()]


def test_it_is_right_in_every_state(program: Path) -> None:
    said = answers(program, (state.make() for state in STATES))
    assert dict(zip([state.name for state in STATES], said, strict=True)) == {
        state.name: state.kstatus for state in STATES
    }


def test_the_rules_of_the_unit_tests_are_its_own(program: Path) -> None:
    items = worlds.everything_seen(journeys())
    items += [{**item, "metadata": {**item["metadata"], "generation": 99}} for item in items[:20]]
    items += [{key: value for key, value in items[0].items() if key != "status"}]
    items += [worlds.shown(worlds.begun().run, deletionTimestamp="2026-01-31T12:30:00Z")]
    assert answers(program, items) == [kstatus(item) for item in items]


def test_a_suspended_job_is_in_progress_for_it_too(program: Path) -> None:
    """The precedent for a suspended run: what is asked for is a result, and there is none yet."""
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "small", "generation": 1},
        "spec": {"suspend": True},
        "status": {"conditions": [{"type": "Suspended", "status": "True"}]},
    }
    assert answers(program, [job]) == ["InProgress"]
