"""What is wrong with a manifest, one line per problem: the dotted path, what was given, what is allowed."""

import difflib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from ippo_trainer.contract import fields
from ippo_trainer.contract.lines import printable
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ippo_operator.api.repairs import Schema, remedy

Location = tuple[str | int, ...]

_TYPES = {"boolean": "true or false", "object": "a section of fields", "array": "a list", "null": "nothing"}
_IN_FULL = {"extra_forbidden", "missing", "value_error"}
"""Errors whose words say what to do."""
_SHOWN = 80


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    path: str
    """Dotted, e.g. spec.improve.klTarget; empty for the whole document."""
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}" if self.path else self.text


class ManifestError(Exception):
    """A manifest that cannot be used. `problems` holds every one found, `str()` one line each."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, problems)))


def from_validation(
    error: ValidationError, model: type[BaseModel], value: Any, accepted: Callable[[Location, Any], bool]
) -> list[Problem]:
    """Pydantic's errors in the words of the manifest.

    Args:
        error: what pydantic says.
        model: that was asked.
        value: what was validated.
        accepted: whether a value at a location would be taken, as far as that is known.
    """
    root = _schema_of(model)
    problems: dict[str, Problem] = {}
    for details in error.errors(include_url=False, include_context=True):
        location, schema = _resolve(root, details["loc"], details["type"])
        path, own = dotted(location), _value_at(value, location)
        # Pydantic counts the items that are right; those that are wrong are told of by themselves.
        if details["type"] == "too_short" and len(own) >= schema.get("minItems", 0):
            continue
        text = _explain(details, root, schema, own)
        if location and details["type"] not in _IN_FULL:
            allowed = partial(accepted, location)
            text += f"; {todo}" if (todo := remedy(str(location[-1]), own, schema, allowed)) else ""
        problems.setdefault(path, Problem(path, text))
    return list(problems.values())


@cache
def _schema_of(model: type[BaseModel]) -> Schema:
    """Once for each model: to make it takes ten times as long as to read a manifest."""
    return model.model_json_schema(by_alias=True)


def _resolve(root: Schema, location: Location, kind: str) -> tuple[Location, Schema]:
    """Follows a location through the schema; drops what pydantic appends to tell the members of a union apart."""
    schema, path = _dereference(root, root), []
    last = len(location) - 1
    for index, part in enumerate(location):
        if kind == "extra_forbidden" and index == last:
            path.append(part)
            break
        child = _child(root, schema, part)
        if child is None:
            break
        path.append(part)
        schema = child
    return tuple(path), schema


def _child(root: Schema, schema: Schema, part: str | int) -> Schema | None:
    if isinstance(part, int):
        items = schema.get("items")
        return _dereference(root, items) if isinstance(items, dict) else None
    if part in schema.get("properties", {}):
        return _dereference(root, schema["properties"][part])
    additional = schema.get("additionalProperties")
    if isinstance(additional, dict) and re.search(schema.get(fields.WHOLE, r"(?!)"), part):
        additional = {"anyOf": [option for option in additional["anyOf"] if option["type"] == "integer"]}
    # Once inside a free-form mapping, the next part is a key; what follows are names of union members.
    return _dereference(root, additional) if isinstance(additional, dict) else None


def _dereference(root: Schema, schema: Schema) -> Schema:
    """The schema behind $ref and behind `… | None`."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return _dereference(root, root["$defs"][name])
    options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    return _dereference(root, options[0]) if len(options) == 1 else schema


def dotted(location: Location) -> str:
    """A location as a path, e.g. spec.fitQ.ranks[0]."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{_key(part)}" for part in location).removeprefix(".")


def _key(part: str) -> str:
    """The key as it is, or quoted where it is empty, has blanks, or would break the line."""
    return part if re.fullmatch(r"[\w./-]+", part) else json.dumps(part)


def _value_at(value: Any, location: Location) -> Any:
    for part in location:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _explain(details: ErrorDetails, root: Schema, schema: Schema, value: Any) -> str:
    kind = details["type"]
    if kind == "extra_forbidden":
        return _unknown(str(details["loc"][-1]), sorted(schema.get("properties", {})))
    if kind == "missing":
        return f"is missing; {_teach(schema, root)}"
    if kind == "value_error":
        return str(details["msg"]).removeprefix("Value error, ")
    length, most = len(value) if isinstance(value, str) else 0, schema.get("maxLength", math.inf)
    long = f" ({length} characters; at most {most})" if length > most else ""
    return f"given {shown(value)}{long}, allowed is {allowed_words(schema, root)}"


def _unknown(field: str, names: Sequence[str]) -> str:
    lower = {name.lower(): name for name in names}
    snake = field.replace("_", "").replace("-", "").lower()
    close = difflib.get_close_matches(snake, lower, n=1, cutoff=0.6)
    if close:
        return f"unknown field; did you mean {lower[close[0]]}? Allowed here: {', '.join(names)}"
    return f"unknown field; allowed here: {', '.join(names)}"


def _teach(schema: Schema, root: Schema) -> str:
    allowed = allowed_words(schema, root)
    if "const" in schema or schema.get("type") == "object":
        return f"give {allowed}"
    description = str(schema.get("description", "")).split("\n")[0].split(". ")[0].rstrip(".")
    return f"give {allowed} ({description})" if description else f"give {allowed}"


def allowed_words(schema: Schema, root: Schema) -> str:
    """What a field takes, in words."""
    schema = _dereference(root, schema)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(allowed_words(option, root) for option in schema["anyOf"]))
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    kind = schema.get("type")
    if kind == "integer":
        return _bounded("a whole number", schema.get("minimum"), schema.get("maximum"), schema.get("exclusiveMaximum"))
    if kind == "string":
        return _string_words(schema)
    if kind in {"object", "array"} and schema.get("maxItems", schema.get("maxProperties")):
        least, most = (schema.get(f"{end}Items", schema.get(f"{end}Properties")) for end in ("min", "max"))
        return f"{_TYPES[kind]}, {f'from {least} to {most}' if least else f'at most {most}'} of them"
    return _TYPES.get(str(kind), "something else")


def _string_words(schema: Schema) -> str:
    if "pattern" in schema:
        return str(schema.get(fields.WORDS, f"text that matches {schema['pattern']}"))
    return _bounded("text", schema.get("minLength"), schema.get("maxLength"), None, " characters")


def _bounded(noun: str, low: int | None, high: int | None, below: int | None, unit: str = "") -> str:
    if below is not None:
        high = below - 1
    if low is not None and high is not None:
        return f"{noun} from {low} to {high}{unit}"
    if low is not None:
        return f"{noun} of at least {low}{unit}"
    return f"{noun} of at most {high}{unit}" if high is not None else noun


def shown(value: Any) -> str:
    """A value as it may be quoted in one line."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a section of fields"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = printable(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
