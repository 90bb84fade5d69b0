"""A fact stands once: names of stages and reasons, exit codes, labels, variables, patterns, lists of choices.

Whoever needs one imports it. What follows reads the source of both halves, docstrings apart, for second copies.
"""

import ast
import inspect
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import ippo_operator
import ippo_trainer
import pytest
from ippo_operator.api import reasons, status
from ippo_operator.api.reasons import Reason
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.local import job_files
from ippo_operator.plan import phase
from ippo_trainer.contract import errors, layout, stages, variables
from ippo_trainer.contract.fields import WORDS
from ippo_trainer.contract.params import Mpo
from ippo_trainer.contract.spec import StageResult, StageSpec

from tests.kit.doc_pages import ROOT

ROOTS = [Path(package.__file__).parent for package in (ippo_operator, ippo_trainer) if package.__file__]
LABEL = re.compile(r"([a-z0-9-]+\.)+(dev|io)/[a-z.-]*")


@cache
def modules() -> dict[str, ast.Module]:
    """The syntax of every module, by its path from the folder above its package."""
    paths = [(root.parent, path) for root in ROOTS for path in sorted(root.rglob("*.py"))]
    return {str(path.relative_to(above)): ast.parse(path.read_text("utf-8")) for above, path in paths}


def place(module: ModuleType) -> str:
    """The key of a module in `modules`."""
    return f"{module.__name__.replace('.', '/')}.py"


@cache
def texts() -> dict[str, list[str]]:
    """Every text that is no docstring, with the modules in which it stands, once for each time."""
    places = defaultdict(list)
    for name, tree in modules().items():
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                places[node.value].append(name)
    return places


def copies(facts: Iterable[str], *homes: ModuleType) -> dict[str, list[str]]:
    """Facts that stand anywhere but in their homes."""
    allowed = {place(home) for home in homes}
    elsewhere = {fact: sorted({*texts().get(fact, ())} - allowed) for fact in facts}
    return {fact: names for fact, names in elsewhere.items() if names}


def test_stages_are_named_in_their_table_only() -> None:
    """By their names and by those of their sections in a manifest."""
    assert copies({*stages.NAMES, *(stage.field for stage in stages.STAGES)}, stages) == {}


def test_the_table_of_stages_fits_the_specs() -> None:
    """Each section that a stage reads is a field of StageSpec, and each input that an iteration makes has a maker."""
    for stage in stages.STAGES:
        assert {*stage.settings} <= StageSpec.model_fields.keys()
        assert stage.section in stage.settings
        assert StageSpec.model_fields[stage.section].alias == stage.field
        assert {*stage.optional} <= {*stage.inputs}
    assert tuple(stages.BY_NAME) == get_args(stages.StageName)


def test_reasons_are_named_in_their_table_only() -> None:
    """Those of exit codes are the contract's. A few are also the name of a condition, of a phase or of a failure."""
    words = {*get_args(reasons.ConditionType), *get_args(phase.PhaseName), *get_args(status.FailureKind)}
    of_kubernetes = {"Unschedulable"}
    assert copies({str(reason) for reason in Reason} - words - of_kubernetes, reasons, errors) == {}


def test_exit_codes_are_numbers_in_the_contract_only() -> None:
    numbers = {
        code for name, code in vars(errors).items() if name.isupper() and type(code) is int and code > errors.FAILED
    }
    assert numbers == {64, 65, 75, 130, 143}
    found = [f"{name}:{line}" for name, tree in modules().items() for line in _exit_codes(tree, numbers)]
    assert [where for where in found if not where.startswith(place(errors))] == []


def _exit_codes(tree: ast.Module, numbers: set[int]) -> Iterator[int]:
    """Lines where such a number is passed to an exit, or stands beside a name with `code` or `exit` in it."""
    for node in ast.walk(tree):
        whole: list[ast.expr] = []
        if isinstance(node, ast.Call) and _tells_of_exits(ast.unparse(node.func).rsplit(".", 1)[-1]):
            whole = [*node.args, *(keyword.value for keyword in node.keywords)]
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.Compare) and _tells_of_exits(ast.unparse(node)):
            whole = [child for child in ast.walk(node) if isinstance(child, ast.Constant)]
        for constant in whole:
            if isinstance(constant, ast.Constant) and type(constant.value) is int and constant.value in numbers:
                yield constant.lineno


def _tells_of_exits(code: str) -> bool:
    return re.search("exit|code|failure", code.split("=")[0].lower()) is not None


def test_labels_and_annotations_stand_once() -> None:
    assert {text: names for text, names in texts().items() if LABEL.fullmatch(text) and len(names) > 1} == {}


def test_environment_variables_stand_once() -> None:
    """All that are read or set in more than one module are in one table."""
    facts = [value for name, value in vars(variables).items() if name.isupper() and isinstance(value, str)]
    assert copies([*facts, *variables.THREADS], variables) == {}
    shared = {text: {*names} for text, names in texts().items() if re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", text)}
    assert {text: names for text, names in shared.items() if len(names) > 1} == {}


def test_places_in_a_pod_and_types_of_patches_stand_once() -> None:
    """Paths of files that an image or Kubernetes knows, and content types that no browser sends."""
    known = re.compile(r"/(dev|ippo|var|etc)(/[\w.-]+)+|application/[a-z]+[-.][a-z.+-]+")
    assert {text: names for text, names in texts().items() if known.fullmatch(text) and len(names) > 1} == {}


def test_numbers_that_nobody_hits_on_by_chance_stand_once() -> None:
    """Ports, bounds, limits: whole numbers above 1000 that are neither round nor a power of two."""
    places = defaultdict(set)
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and type(node.value) is int and len(f"{node.value}".rstrip("0")) > 2:
                places[node.value].add(name)
    of_time, of_splitmix = {86_400, 604_800}, {0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB}
    common = {number for number in places if number < 1000 or number & (number - 1) == 0} | of_time | of_splitmix
    assert {number: names for number, names in places.items() if len(names) > 1 and number not in common} == {}


@pytest.mark.parametrize("model", [IterativePPORun, StageSpec, StageResult])
def test_patterns_of_the_models_stand_once(model: Any) -> None:
    patterns = {schema["pattern"] for schema in _schemas(model.model_json_schema()) if "pattern" in schema}
    assert patterns
    copies = {pattern: _places({pattern, pattern.strip("^$")}) for pattern in patterns}
    assert {pattern: names for pattern, names in copies.items() if len(names) > 1} == {}


def _places(facts: Iterable[str]) -> list[str]:
    return [name for fact in facts for name in texts().get(fact, [])]


def test_every_pattern_of_a_manifest_is_said_in_words() -> None:
    schema = IterativePPORun.model_json_schema()
    schema["properties"].pop("status")
    mute = [
        s["pattern"] for s in _schemas(schema) if "pattern" in s and WORDS not in s and "sha256" not in s["pattern"]
    ]
    assert mute == []


def _schemas(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
    for child in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _schemas(child)


def test_a_list_of_choices_stands_once() -> None:
    """`Literal[...]` of two or more; whoever takes the same choices takes the same name."""
    lists = Counter(
        frozenset(ast.unparse(choice) for choice in node.slice.elts)
        for tree in modules().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
        and ast.unparse(node.value) == "Literal"
        and isinstance(node.slice, ast.Tuple)
    )
    assert [sorted(choices) for choices, count in lists.items() if count > 1] == []


def test_files_that_others_read_are_named_once() -> None:
    files = {value for name, value in vars(layout).items() if name.isupper() and ".json" in value}
    assert files
    assert copies(files, layout) == {}
    ours = set(re.findall(r'"([\w*]+\.(?:json|txt))"', inspect.getsource(job_files))) - {"spec.json"}
    assert copies(ours, job_files) == {}


def test_a_public_class_name_means_one_thing() -> None:
    """One name, one class, in the operator and the trainer together: a reader who searches for it finds one answer."""
    homes = defaultdict(list)
    for name, tree in modules().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(name)
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


def test_pages_name_images_of_this_release() -> None:
    pages = [ROOT / "README.md", ROOT / "charts/ippo-operator/values.yaml", *(ROOT / "docs").rglob("*.md")]
    images = {(path.name, tag) for path in pages for tag in re.findall(r"ippo-\w+:(\d+\.\d+\.\d+)", path.read_text())}
    assert {tag for _, tag in images} == {version("iterative-ppo")}, images


def test_what_stands_for_a_field_that_is_left_out_is_what_its_description_says() -> None:
    texts = {name: " ".join(str(field.description).split()) for name, field in Mpo.model_fields.items()}
    assert [name for name, value in Mpo.DEFAULTS.items() if f"{value} if left out" not in texts[name]] == []
