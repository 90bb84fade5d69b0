"""CONTRIBUTING.md leads newcomers to what is there."""

import re

import pytest

from tests.kit.doc_pages import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
ROOMS, DECISIONS, RECIPES = (
    PAGE.split(f"## {heading}\n")[1].split("\n## ")[0] for heading in ("The rooms", "Where is it decided?", "Recipes")
)


@pytest.mark.parametrize("half", ["trainer/ippo_trainer", "operator/ippo_operator"])
def test_all_rooms_are_in_the_table(half: str) -> None:
    table = ROOMS.split(f"`{half}/`")[1].split("\n\n")[1]
    rooms = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(rooms) == sorted(path.parent.name for path in (ROOT / half).glob("*/__init__.py"))


def test_all_modules_of_the_kit_are_in_the_table() -> None:
    named = set(re.findall(r"`(\w+\.py)`", ROOMS.split("is in `tests/kit/`:")[1].split("\n\n")[1]))
    assert named == {path.name for path in (ROOT / "tests/kit").glob("*.py")} - {"__init__.py"}


def rows() -> list[tuple[str, str]]:
    return re.findall(r"\| `([^`]+)` \| `([^`]+)` \|$", DECISIONS, re.MULTILINE)


@pytest.mark.parametrize(("file", "name"), rows())
def test_what_decides_is_in_the_file(file: str, name: str) -> None:
    assert re.search(rf"^(async def|def|class) {name}\b|^{name}\b.* = ", (ROOT / file).read_text(), re.MULTILINE)


def test_there_are_ten_to_fifty_questions() -> None:
    assert 10 <= len(rows()) == DECISIONS.count("\n| ") - 1 <= 50


def test_files_and_folders_that_the_page_names_are_there() -> None:
    names = set(re.findall(r"`((?:operator|trainer|tests|docs|crds)/[\w./]+)`", PAGE))
    assert len(names) > 30
    assert [name for name in sorted(names) if "NAME" not in name and not (ROOT / name).exists()] == []


def test_every_recipe_has_five_steps() -> None:
    recipes = RECIPES.split("\n### ")[1:]
    assert len(recipes) == 9
    assert [re.findall(r"^(\d)\. ", recipe, re.MULTILINE) for recipe in recipes] == [list("12345")] * 9
