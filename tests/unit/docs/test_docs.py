"""The documentation is true where a program can tell: links, generated text, defaults, examples."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from ippo_operator.api.crd import custom_resource_definition
from ippo_operator.api.load import load_run
from ippo_operator.api.reference import to_markdown
from ippo_trainer.contract import params
from ippo_trainer.data.logs import read_log

from tests.kit.doc_pages import ROOT, pages

PAGES = [ROOT / name for name in pages()]
HALVES = [ROOT / "operator" / "ippo_operator", ROOT / "trainer" / "ippo_trainer"]
ROOMS = sorted(path.parent.name for half in HALVES for path in half.glob("*/__init__.py"))
SECTIONS = {"collect": params.Collect, "fitQ": params.FitQ, "improve": params.Improve}


def anchors(text: str) -> list[str]:
    """GitHub's anchors of a page's headings."""
    heads = [re.sub(r"[^\w -]", "", head.lower()) for head in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
    return [head.replace(" ", "-") for head in heads]


def test_the_reference_is_what_the_models_say() -> None:
    assert (ROOT / "docs" / "manifest.md").read_text() == to_markdown(), "make docs"


def test_every_field_of_the_spec_has_a_meaning() -> None:
    spec = to_markdown().split("## `status`")[0]
    rows = [re.split(r"(?<!\\)\|", line) for line in spec.splitlines() if line.startswith("| `")]
    assert len(rows) > 150
    assert [row[1].strip() for row in rows if not row[4].strip()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    own = anchors(text)
    assert len(own) == len(set(own))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        other = page.parent / path if path else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other.read_text()), target


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    names = [str(page.relative_to(ROOT / "docs")) for page in PAGES if page.is_relative_to(ROOT / "docs")]
    assert [name for name in names if not name.startswith(("index", "runbooks/")) and f"({name})" not in index] == []


def test_ppo_md_has_the_defaults_of_the_models() -> None:
    text = (ROOT / "docs" / "ppo.md").read_text()
    rows = re.findall(r"^\| `(\w+)(?:\.simulate)?\.(\w+)` \| `([^`]+)` \|", text, re.MULTILINE)
    assert len(rows) > 15
    for section, name, default in rows:
        [field] = [field for field in SECTIONS[section].model_fields.values() if field.alias == name]
        assert (section, name, default) == (section, name, str(field.default))


def texts_of(path: Path) -> list[str]:
    """Texts of a program; of a page, what it has as code."""
    if path.suffix == ".md":
        return re.findall(r"`([^`\n]+)`", path.read_text())
    nodes = ast.walk(ast.parse(path.read_text()))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def in_the_spec(field: str) -> bool:
    schema: Any = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for name in field.split("."):
        schema = schema.get("items", schema)
        schema = schema.get("properties", {}).get(name)
        if schema is None:
            return False
    return True


def test_fields_that_errors_and_pages_name_are_fields_of_the_manifest() -> None:
    """What to change must be something that one can change."""
    sections = "collect|fitQ|improve|evaluate|warmStart|policy"
    pattern = re.compile(rf"(?<![\w./])(?:spec\.)?((?:{sections})(?:\.[a-z][A-Za-z0-9]*)+)(?![\w(/])")
    paths = [*PAGES, *(path for half in HALVES for path in half.rglob("*.py"))]
    named = {field: path for path in paths for text in texts_of(path) for field in pattern.findall(text)}
    assert len(named) > 60
    assert {field: path for field, path in named.items() if not in_the_spec(field)} == {}


def code_named(page: Path) -> list[str]:
    """Python files and modules that a page names, as `room/file.py` or `room.module`."""
    words = re.findall(r"`([^`\s]+)`", page.read_text())
    files = [word for word in words if re.fullmatch(r"[\w/]+\.py", word)]
    rooms = "|".join(room for room in ROOMS if room not in SECTIONS)  # improve.updates is a field of a manifest
    modules = [word for word in words if re.fullmatch(rf"(?:{rooms})(?:\.[a-z_]+)+", word)]
    modules = [word for word in modules if not word.endswith((".py", ".json", ".html", ".directory"))]
    return [*files, *(module.replace(".", "/") for module in modules)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_that_a_page_names_is_there(page: Path) -> None:
    for name in code_named(page):
        places = [folder / name for folder in (ROOT, *HALVES, *(half.parent for half in HALVES))]
        there = [place for place in places if place.exists() or place.with_suffix(".py").exists()]
        of_module = [place.parent for place in places if place.parent.with_suffix(".py").exists()]
        in_a_room = "/" not in name and any(next(folder.rglob(name), None) for folder in (*HALVES, ROOT / "tests"))
        assert there or of_module or in_a_room or "NAME" in name, name


def test_bounds_in_metrics_md_are_those_of_the_test() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text().split("## What hundreds of runs cost")[1]
    test = (ROOT / "tests" / "integration" / "scale" / "test_scale.py").read_text()
    bounds = re.findall(r"^\| .* \| (\d+)", text, re.MULTILINE)
    named = [re.search(rf"{name} <= (\d+)", test) for name in ("writes_per_stage", "reads_per_stage", "memory_peak")]
    assert bounds[:3] == [match.group(1) for match in named if match]


def test_the_example_log_is_read_as_described(tmp_path: Path) -> None:
    blocks = re.findall(r"^```json\n(.*?)^```$", (ROOT / "docs" / "chat-logs.md").read_text(), re.MULTILINE | re.DOTALL)
    log = tmp_path / "log.jsonl"
    log.write_text(blocks[0])
    first, second = read_log(log)
    assert [turn.suggestion for turn in first.turns] == ["Which do you like?", "I packed it for you."]
    assert [turn.reaction for turn in first.turns] == ["edited", "accepted"]
    assert (second.turns[0].suggestion, second.turns[0].sent_message) == (None, "Hello!")


def test_the_example_of_a_context_becomes_the_text_that_is_shown(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "chat-logs.md").read_text().split("## Context and tools")[1].split("## ")[0]
    [line] = re.findall(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    shown = re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0]
    (tmp_path / "log.jsonl").write_text(line)
    [conversation] = read_log(tmp_path / "log.jsonl")
    assert conversation.context == shown.strip()
    assert conversation.turns[0].tool_messages == ("stock: 12",)


def test_the_lifecycle_rule_is_json() -> None:
    [block] = re.findall(
        r"^```json\n(.*?)^```$", (ROOT / "docs" / "artifacts.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert json.loads(block)["Rules"][0]["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] >= 1


def test_the_ceilings_in_the_report_page_are_what_its_snippet_prints(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "reading-the-report.md").read_text()
    [code] = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    [printed] = re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    exec(compile(code, "reading-the-report.md", "exec"), {})
    assert capsys.readouterr().out == printed


def test_the_run_of_the_example_environment_is_valid() -> None:
    run = load_run((ROOT / "examples" / "my-environment.yaml").read_text())
    assert run.spec.collect.simulate.environment.name == "examples/my_environment.py:TeaShop"
