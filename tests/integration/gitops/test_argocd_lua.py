"""Argo CD's own interpreter on the chart's Lua, without a cluster: it says what the unit tests' Lua says."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kit.lab import find_program
from tests.unit.gitops import lua
from tests.unit.gitops.customization import CONFIG_MAP
from tests.unit.gitops.states import STATES, State

pytestmark = pytest.mark.slow
EACH = pytest.mark.parametrize("state", STATES, ids=[state.name for state in STATES])


@pytest.fixture(scope="module")
def program() -> Path:
    program = find_program("argocd")
    if program is None:
        pytest.skip("needs Argo CD's command line: $ARGOCD, argocd on the PATH, or a lab that once ran `lab argocd`")
    return program


def ask(program: Path, folder: Path, item: dict[str, Any], *command: str) -> tuple[int, str]:
    """Exit code and output of one of the troubleshooting commands."""
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(item))
    verb, *rest = command
    whole = [str(program), "admin", "settings", "resource-overrides", verb, str(file), *rest]
    done = subprocess.run(
        [*whole, "--argocd-cm-path", str(CONFIG_MAP)],
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(folder), "KUBECONFIG": str(folder / "none")},
        timeout=60,
    )
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr


@EACH
def test_health(program: Path, tmp_path: Path, state: State) -> None:
    item = state.make()
    code, text = ask(program, tmp_path, item, "health")
    assert code == 0, text
    said = dict(line.split(": ", 1) for line in text.splitlines())
    assert said["STATUS"] == state.health
    # A deletion is Argo CD's own matter; it does not ask the Lua.
    assert said["MESSAGE"] == ("Pending deletion" if state.kstatus == "Terminating" else lua.health(item)["message"])


@EACH
def test_actions(program: Path, tmp_path: Path, state: State) -> None:
    code, text = ask(program, tmp_path, state.make(), "list-actions")
    assert code == 0, text
    disabled = dict(line.split() for line in text.splitlines()[1:])
    assert set(disabled) == set(lua.ACTIONS)
    assert " ".join(sorted(name for name, answer in disabled.items() if answer == "false")) == state.actions


@pytest.mark.parametrize(
    ("action", "name", "line"),
    [
        ("suspend", "the first stage runs", "suspend: true"),
        ("resume", "suspended", "suspend: false"),
        ("approve", "awaits approval", "approve: 1"),
        ("reject", "awaits approval", "reject: 1"),
    ],
)
def test_an_action_changes_one_line(program: Path, tmp_path: Path, action: str, name: str, line: str) -> None:
    [state] = [state for state in STATES if state.name == name]
    code, text = ask(program, tmp_path, state.make(), "run-action", action)
    assert code == 0, text
    changed = [row.removeprefix(">").strip() for row in text.splitlines() if row.startswith(">")]
    assert changed == [line]


def test_a_refused_action_says_why(program: Path, tmp_path: Path) -> None:
    [state] = [state for state in STATES if state.name == "the first stage runs"]
    code, text = ask(program, tmp_path, state.make(), "run-action", "approve")
    assert code != 0
    assert "no candidate of this run waits for an answer" in text
