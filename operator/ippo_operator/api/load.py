"""Reads manifests: YAML text in, checked IterativePPORuns out, exact errors otherwise."""

import copy
import json
from collections.abc import Hashable
from functools import partial
from typing import Any

import yaml
from pydantic import ValidationError

from ippo_operator.api import rules
from ippo_operator.api.problems import Location, ManifestError, Problem, dotted, from_validation, shown
from ippo_operator.api.resource import API_VERSION, KIND, IterativePPORun

MAX_BYTES = 1 << 20
MAX_NODES = 100_000
MAX_DEPTH = 64


_MERGE = "tag:yaml.org,2002:merge"
_JSON_TAGS = {None, *(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map"))}
"""What JSON has, and None for the constructor that refuses the rest: sets, bytes and dates mean nothing to a spec."""


class _ManifestLoader(yaml.SafeLoader):
    """Safe YAML as far as JSON goes: it refuses duplicate keys and merge keys, and keeps timestamps as text."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, KeyError, AttributeError):  # PyYAML lets those of int(), float() and its tables through
            raise _at(node, f"{shown(node.value)} cannot be read as {node.tag.rsplit(':', 1)[-1]}") from None

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
        value: str = super().construct_scalar(node)
        try:  # JSON escapes what is outside of the basic plane as two halves
            return value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise _at(node, f"{json.dumps(value)[:40]} holds half of a character (a lone surrogate)") from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:  # merged sections can grow without bound before anybody counts them
                raise _at(key_node, "merge keys (<<) are not supported; write the fields out")
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _at(key_node, f"the key {shown(key)} is not text; put it in quotes")
            if key in lines:
                raise _at(key_node, f"the key {key} is given twice, first in line {lines[key]}")
            lines[key] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep=deep)


def _at(node: yaml.Node, text: str) -> ManifestError:
    return ManifestError([Problem("", f"line {node.start_mark.line + 1}: {text}")])


_ManifestLoader.yaml_constructors = {
    tag: constructor for tag, constructor in yaml.SafeLoader.yaml_constructors.items() if tag in _JSON_TAGS
}
_ManifestLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_run(text: str, name: str | None = None) -> IterativePPORun:
    """The one IterativePPORun in a file of YAML documents; other kinds are left alone, as kubectl's users expect.

    Args:
        text: one or more YAML (or JSON) documents.
        name: which run to take when there are several.

    Raises:
        ManifestError: nothing to run, more than one and no name, or anything wrong in the chosen one.
    """
    documents = _documents(text)
    runs = [document for document in documents if document.get("kind") == KIND]
    if not runs and len(documents) == 1:
        return parse_run(documents[0])  # says what is wrong with apiVersion and kind
    if not runs:
        kinds = ", ".join(sorted({str(document.get("kind")) for document in documents}))
        raise ManifestError([Problem("", f"no {KIND} among the documents" + (f"; found: {kinds}" if kinds else ""))])
    if name is not None:
        runs = [run for run in runs if _name(run) == name]
    if len(runs) != 1:
        names = ", ".join(_name(document) for document in documents if document.get("kind") == KIND)
        count = "none" if not runs else "more than one"
        raise ManifestError([Problem("", f"{count} of the {KIND}s fits; choose with --name one of: {names}")])
    return parse_run(runs[0])


def parse_run(document: Any) -> IterativePPORun:
    """A checked run from plain data; raises ManifestError with every problem. A status in it is left out."""
    if isinstance(document, dict):
        document = {key: value for key, value in document.items() if key != "status"}
    try:
        run = _validated(document)
    except ValidationError as error:
        raise ManifestError(from_validation(error, IterativePPORun, document, partial(_accepted, document))) from None
    problems = rules.problems(run.spec)
    if problems:
        raise ManifestError(problems)
    return run


def _validated(document: Any) -> IterativePPORun:
    return IterativePPORun.model_validate_json(json.dumps(document), by_alias=True, by_name=False)


def _accepted(document: Any, location: Location, value: Any) -> bool:
    """Whether no rule would refuse the value there. Where more is wrong nobody can tell, and it is."""
    changed = copy.deepcopy(document)
    place = changed
    for part in location[:-1]:
        place = place[part]
    place[location[-1]] = value
    try:
        run = _validated(changed)
    except ValidationError:
        return True
    return all(problem.path != dotted(location) for problem in rules.problems(run.spec))


def _name(document: dict[str, Any]) -> str:
    metadata = document.get("metadata")
    return str(metadata.get("name")) if isinstance(metadata, dict) else "(no name)"


def _documents(text: str) -> list[dict[str, Any]]:
    if len(text.encode()) > MAX_BYTES:
        raise ManifestError([Problem("", f"the file is larger than {MAX_BYTES >> 20} MiB")])
    try:
        documents = [document for document in yaml.load_all(text, Loader=_ManifestLoader) if document is not None]
    except yaml.YAMLError as error:
        raise ManifestError([Problem("", f"not YAML: {_where(error)}")]) from None
    except RecursionError:
        raise ManifestError([Problem("", f"the file nests more than {MAX_DEPTH} levels")]) from None
    if not documents:
        raise ManifestError([Problem("", f"the file is empty; expected apiVersion: {API_VERSION}, kind: {KIND}, …")])
    for number, document in enumerate(documents, 1):
        if not isinstance(document, dict):
            raise ManifestError([Problem("", f"document {number} is {shown(document)}, not a section of fields")])
        if _count(document, MAX_NODES, MAX_DEPTH) < 0:
            text = f"document {number} has more than {MAX_NODES} values or {MAX_DEPTH} levels with aliases expanded"
            raise ManifestError([Problem("", text)])
    return [item for document in documents for item in (document["items"] if _is_list(document) else [document])]


def _is_list(document: dict[str, Any]) -> bool:
    items = document.get("items")
    return document.get("kind") == "List" and isinstance(items, list) and all(isinstance(item, dict) for item in items)


def _where(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem or error.context}"
    return " ".join(str(error).split())


def _count(value: Any, budget: int, depth: int) -> int:
    """What is left of `budget` after counting the values; negative where there are too many or they nest too deep."""
    if depth < 0:
        return -1
    budget -= 1
    children: Any = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        if budget < 0:
            break
        budget = _count(child, budget, depth - 1)
    return budget
