"""The CRD beside that of the release before: an upgrade changes it first, and a roll-back changes it last.

Meanwhile that release's operator works on runs that this CRD let in.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
CRD = "crds/ippo.dev_iterativepporuns.yaml"
BEFORE = (ROOT / "tests" / "e2e" / "previous").read_text().strip()


def fields(text: str) -> dict[str, Any]:
    """Schemas of all fields, by path."""
    [version] = yaml.load(text, yaml.CSafeLoader)["spec"]["versions"]
    return dict(_walk("", version["schema"]["openAPIV3Schema"]))


def _walk(path: str, schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from _walk(f"{path}.{name}" if path else name, child)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _walk(f"{path}[]", schema[key])


@pytest.fixture(scope="module")
def before() -> dict[str, Any]:
    shown = subprocess.run(["git", "show", f"{BEFORE}:{CRD}"], cwd=ROOT, capture_output=True, text=True)
    if shown.returncode != 0:
        pytest.skip(f"needs Git's history back to {BEFORE}")
    return fields(shown.stdout)


@pytest.fixture(scope="module")
def now() -> dict[str, Any]:
    return fields((ROOT / CRD).read_text())


def test_no_field_went_away_or_became_required(before: dict[str, Any], now: dict[str, Any]) -> None:
    assert sorted(before.keys() - now.keys()) == []
    asked = {path: set(now[path].get("required", ())) - set(was.get("required", ())) for path, was in before.items()}
    assert {path: names for path, names in asked.items() if names} == {}


def test_nothing_was_narrowed(before: dict[str, Any], now: dict[str, Any]) -> None:
    for path, was in before.items():
        assert was.get("type") == now[path].get("type"), path
        assert set(was.get("enum", ())) <= set(now[path].get("enum", was.get("enum", ()))), path
        for bound in ("maximum", "maxLength", "maxItems", "maxProperties"):
            assert now[path].get(bound, float("inf")) >= was.get(bound, float("inf")), (path, bound)
        for bound in ("minimum", "minLength", "minItems"):
            assert now[path].get(bound, float("-inf")) <= was.get(bound, float("-inf")), (path, bound)


def test_new_fields_of_the_spec_have_no_default(before: dict[str, Any], now: dict[str, Any]) -> None:
    """The API server would put them into every run, where the operator of the release before refuses them.

    Below a section that is new itself it may: who gives that section cannot go back anyway.
    """
    new = [path for path in now.keys() - before.keys() if path.startswith("spec.")]
    in_former_sections = [path for path in new if path.rpartition(".")[0].removesuffix("[]") in before]
    assert [path for path in in_former_sections if "default" in now[path]] == []
    for path, was in before.items():
        if path.startswith("spec") and isinstance(was.get("default"), dict):
            assert _leaves(now[path]["default"]) <= _leaves(was["default"]), path


def _leaves(value: Any, path: str = "") -> set[str]:
    if not isinstance(value, dict):
        return {path}
    return {leaf for name, child in value.items() for leaf in _leaves(child, f"{path}.{name}")} | {path}


def test_going_back_names_the_reasons_that_the_release_before_cannot_read(
    before: dict[str, Any], now: dict[str, Any]
) -> None:
    """A status with one of them stops that release's passes over the run."""
    [_, back] = (ROOT / "docs" / "upgrade.md").read_text().split("## Back")
    path = "status.conditions[].reason"
    new = set(now[path]["enum"]) - set(before[path]["enum"])
    assert [reason for reason in sorted(new) if f"`{reason}`" not in back.split("\n## ")[0]] == []
