"""Every block of code in the documentation has a test: a page with a new one fails here until it has."""

import json
import os
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import yaml
from ippo_operator.api import idle
from ippo_operator.api.load import load_run
from ippo_operator.cli.command_line import make_parser

from tests.kit.doc_pages import ROOT, Block, blocks, of_languages, pages, shell
from tests.kit.doc_scenes import ELSEWHERE, NOT_RUN, excuse, scenes

LANGUAGES = {"sh", "text", "yaml", "json", "python", ""}
QUOTATIONS = {
    "docs/artifacts.md": {"Artifacts": "a tree of folders", "Verification": "test_quotations.py"},
    "docs/chat-logs.md": {
        "From messages to turns": "test_quotations.py",
        "Context and tools": "test_docs.py",
        "Errors": "test_quotations.py",
    },
    "docs/environments.md": {"What errors you get": "test_my_environment.py"},
    "docs/reading-the-report.md": {"The plateau at .74 of the optimum": "test_docs.py"},
}
"""`text` blocks that no command of the page prints: by page and heading, what looks after them."""


def carried_out() -> Counter[Block]:
    """How often each block of commands is in a scene."""
    return Counter(block for scene in scenes() for block in scene.blocks)


def test_every_block_says_what_it_is() -> None:
    assert [str(block) for page in pages() for block in blocks(page) if block.language not in LANGUAGES] == []


def test_every_block_of_commands_is_carried_out_once() -> None:
    count = carried_out()
    wrong = [
        str(block)
        for block in of_languages(["sh"])
        if block.page not in ELSEWHERE and count[block] != (0 if excuse(block) else 1)
    ]
    assert wrong == [], "give these blocks a scene in tests/kit/doc_scenes.py"


def test_the_pages_of_the_scenes_and_their_headings_are_there() -> None:
    for scene in scenes():
        sections = {block.section for block in shell(scene.page)}
        assert set(scene.sections) <= sections, scene.page
        assert set(scene.before) - {""} <= sections, scene.page
    for page, test in ELSEWHERE.items():
        assert (ROOT / page).exists()
        assert (ROOT / test).exists()


def test_what_no_test_can_carry_out_is_little_and_has_a_reason() -> None:
    excused = [block for block in of_languages(["sh"]) if excuse(block) is not None]
    assert len(excused) == sum(map(len, NOT_RUN.values()))
    assert len(excused) <= 6
    assert all(len(reason) > 40 for reasons in NOT_RUN.values() for reason in reasons.values())


def commands(block: Block) -> list[str]:
    """The lines of a block as bash reads them: continued lines joined, comments, heredocs and quotes as they are."""
    joined = re.sub(r"\\\n\s*", " ", block.code)
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("block", of_languages(["sh"]), ids=str)
def test_bash_can_read_it(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.code, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", [block for block in of_languages(["sh"]) if excuse(block)], ids=str)
def test_targets_and_scripts_of_blocks_that_are_not_run_are_there(block: Block) -> None:
    for line in commands(block):
        words = line.partition("  #")[0].split()
        words = [word for word in words if "=" not in word]
        if words[:1] == ["make"] and len(words) > 1:
            done = subprocess.run(["make", "--dry-run", words[1]], capture_output=True, text=True, cwd=ROOT)
            assert "No rule" not in done.stderr, line
        elif words and "/" in words[0]:
            assert os.access(ROOT / words[0], os.X_OK), line


def ippo_lines() -> list[str]:
    """Commands of `ippo` in the running text, as `ippo retry NAME`."""
    lines = {
        match
        for page in pages()
        for match in re.findall(r"`(?:kubectl )?ippo ([a-z][^`]*)`", (ROOT / page).read_text())
    }
    return sorted(lines)


@pytest.mark.parametrize("line", ippo_lines())
def test_ippo_in_the_running_text_is_a_command(line: str) -> None:
    """By its verb and its flags; what the text leaves out (names, files) is put in."""
    words = line.split()
    subcommands = next(action for action in make_parser("ippo")._actions if action.dest == "command").choices
    assert words[0] in subcommands, line
    flags = set(subcommands[words[0]]._option_string_actions)
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= flags, line


@pytest.mark.parametrize("block", of_languages(["yaml"]), ids=str)
def test_yaml_is_what_it_says(block: Block, tmp_path: Path) -> None:
    for document in yaml.safe_load_all(block.code):
        if document.get("kind") == "IterativePPORun":
            assert idle.problems(load_run(yaml.safe_dump(document)).spec) == []
        elif "apiVersion" not in document:
            assert part_of_a_run(document) or part_of_a_chart(document), block


def part_of_a_run(document: dict[str, object]) -> bool:
    """Whether these are sections of a run's spec, valid in a run that has little else."""
    base = yaml.safe_load((ROOT / "examples" / "my-environment.yaml").read_text())
    base["spec"] = merged(base["spec"], document)
    if document.get("warmStart"):
        base["spec"]["warmStart"] = document["warmStart"]
    try:
        load_run(yaml.safe_dump(base))
    except Exception:
        return False
    return True


def merged(base: dict[str, object], more: dict[str, object]) -> dict[str, object]:
    """`base` with what `more` says."""
    result = dict(base)
    for key, value in more.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def part_of_a_chart(document: dict[str, object]) -> bool:
    """Whether these are values of the chart, or a chart's dependency on it."""
    chart = ROOT / "charts" / "ippo-operator"
    if "dependencies" in document:
        [dependency] = document["dependencies"]  # type: ignore[misc]
        about = yaml.safe_load((chart / "Chart.yaml").read_text())
        return bool((dependency["name"], dependency["version"]) == (about["name"], about["version"]))
    return set(document) <= set(yaml.safe_load((chart / "values.yaml").read_text()))


@pytest.mark.parametrize("block", of_languages(["json"]), ids=str)
def test_json_is_json(block: Block) -> None:
    lines = [block.code] if block.code.startswith("{\n") or '"Statement"' in block.code else block.code.splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)


def test_every_quotation_is_looked_after() -> None:
    found: dict[str, set[str]] = {}
    for block in of_languages(["text"]):
        found.setdefault(block.page, set()).add(block.section)
    assert found == {page: set(sections) for page, sections in QUOTATIONS.items()}
    tests = {name for sections in QUOTATIONS.values() for name in sections.values() if name.endswith(".py")}
    assert all((Path(__file__).parent / name).exists() for name in tests)
