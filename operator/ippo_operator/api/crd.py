"""The CustomResourceDefinition, generated from the models.

    python -m ippo_operator.api.crd > crds/ippo.dev_iterativepporuns.yaml

The schema is structural: no references, no nulls, every list and string of the spec bounded. CEL rules come from `cel`.
"""

import sys
from collections.abc import Iterator
from typing import Any

import yaml
from ippo_trainer.contract.params import Model

from ippo_operator.api import cel
from ippo_operator.api.pods import LIST_KEYS, LIST_MAP
from ippo_operator.api.resource import API_VERSION, GROUP, KIND, PLURAL, VERSION, IterativePPORun
from ippo_operator.api.status import FORMER_NAME, FORMER_RELEASE

Schema = dict[str, Any]

_KEPT = (
    "type",
    "enum",
    "format",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
    LIST_MAP,
    LIST_KEYS,
)
_OPTION_TEXT = 1024
_UNSEEN = {"observedGeneration": -1}
"""The status of a run that the operator has not seen yet: kstatus, and so Flux, takes a run without any for done."""
_COLUMNS = (
    ("Progress", "string", ".status.progress", 0, "Completed iterations of spec.iterations.max"),
    ("Stage", "string", ".status.stage", 0, "The stage that runs or comes next"),
    ("Best", "number", ".status.best.estimate", 0, "The best promoted policy's measured gate metric"),
    ("Promoted", "string", '.status.conditions[?(@.type=="Promoted")].status', 0, "The gate's latest answer"),
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', 0, "Whether the run reached its end"),
    ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', 0, "Why it is, or is not, ready"),
    ("Age", "date", ".metadata.creationTimestamp", 0, "Since when the run exists"),
    ("Iteration", "integer", ".status.iteration", 1, "The iteration that runs"),
    ("Attempt", "integer", ".status.attempt", 1, "The latest attempt of that stage"),
    ("Queue", "string", ".spec.queue.localQueueName", 1, "The Kueue queue"),
    ("Last-Failure", "string", ".status.lastFailure.reason", 1, "Why an attempt failed last"),
    ("Message", "string", '.status.conditions[?(@.type=="Ready")].message', 1, "In a sentence"),
)


def _priority(value: int) -> dict[str, int]:
    """Without 0: the API server leaves it out, and Argo CD would call the CRD out of sync for ever."""
    return {"priority": value} if value else {}


def custom_resource_definition() -> dict[str, Any]:
    """The CRD as `kubectl apply` takes it."""
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _root()},
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, **_priority(priority), "description": text}
            for name, kind, path, priority, text in _COLUMNS
        ],
    }
    names = {
        "kind": KIND,
        "listKind": f"{KIND}List",
        "plural": PLURAL,
        "singular": KIND.lower(),
        "shortNames": ["ippo"],
        "categories": ["ml"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]},
    }


def _root() -> Schema:
    source = IterativePPORun.model_json_schema(by_alias=True)
    convert = _Converter(source["$defs"])
    spec = convert.schema(source["properties"]["spec"])
    status = convert.schema(source["properties"]["status"])
    _drop_defaults(status)
    status["default"] = _UNSEEN
    unbounded = list(_unbounded(spec, "spec"))
    if unbounded:
        raise ValueError(f"without a bound: {', '.join(unbounded)}")
    plain = {"apiVersion": f"Of this schema, {API_VERSION}.", "kind": f"{KIND}."}
    return {
        "description": flowed(source["description"]),
        "type": "object",
        "required": ["spec"],
        "properties": {
            **{name: {"type": "string", "description": text} for name, text in plain.items()},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
        "x-kubernetes-validations": cel.validations(IterativePPORun),
    }


class _Converter:
    """From pydantic's JSON schema to a structural one."""

    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions
        self._models = {model.__name__: model for model in subclasses(Model)}

    def schema(self, source: Schema) -> Schema:
        """The structural schema of a value."""
        target: Schema = {}
        if "$ref" in source:
            name = source["$ref"].rsplit("/", 1)[-1]
            source = {**self._definitions[name], **{key: value for key, value in source.items() if key != "$ref"}}
            if validations := cel.validations(self._models[name]) if name in self._models else []:
                target["x-kubernetes-validations"] = validations
        if "anyOf" in source:
            return self._union(source)
        if "const" in source:
            source = {**source, "enum": [source["const"]]}
        if "description" in source:
            target["description"] = flowed(source["description"])
        target |= {key: source[key] for key in _KEPT if key in source}
        if "exclusiveMaximum" in source or "exclusiveMinimum" in source:
            raise ValueError(f"write the bound inclusively: {source}")
        if "properties" in source:
            target["properties"] = dict(self._fields(source["properties"]))
        if isinstance(source.get("additionalProperties"), dict):
            target["additionalProperties"] = self.schema(source["additionalProperties"])
        if "items" in source:
            target["items"] = self.schema(source["items"])
        default = _default(source.get("default"), target)
        if default is not None:
            target["default"] = default
        return target

    def _fields(self, properties: dict[str, Schema]) -> Iterator[tuple[str, Schema]]:
        """Each field, and beside one that was renamed its former name: the API server drops what it does not know."""
        for name, source in properties.items():
            yield name, self.schema(source)
            if FORMER_NAME in source:
                read = f"It is read where {name} is missing, and never written."
                text = f"Deprecated: {name}, as {FORMER_RELEASE} called it. {read}"
                yield source[FORMER_NAME], self.schema(source) | {"description": text}

    def _union(self, source: Schema) -> Schema:
        options = [option for option in source["anyOf"] if option.get("type") != "null"]
        rest = {key: value for key, value in source.items() if key != "anyOf"}
        if len(options) == 1:
            return self.schema({**options[0], **rest})
        types = {option["type"] for option in options}
        text = {"description": flowed(source["description"])} if "description" in source else {}
        if types == {"integer", "string"}:
            bounds = {key: option[key] for option in options for key in _KEPT if key in option and key != "type"}
            kinds = [{"type": "integer"}, {"type": "string"}]
            return text | {"x-kubernetes-int-or-string": True, "anyOf": kinds} | bounds
        if types == {"integer", "string", "boolean"}:
            return text | _SCALAR
        raise ValueError(f"no structural schema for {source}")


# A structural schema has one type for a value. This says "a scalar" without naming one: sections and lists are empty at
# most, those are refused too, and numbers are whole.
_SCALAR: Schema = {
    "x-kubernetes-preserve-unknown-fields": True,
    "maxProperties": 0,
    "maxItems": 0,
    "maxLength": _OPTION_TEXT,
    "multipleOf": 1,
    "not": {"enum": [None, {}, []]},
}


def _default(value: Any, target: Schema) -> Any:
    """A section's default is empty where fields in it have defaults of their own; empty lists and maps have none."""
    if isinstance(value, dict):
        children = target.get("properties", {}).values()
        return {} if any("default" in child for child in children) else None
    return None if value == [] or value == "" else value


def _drop_defaults(schema: Schema) -> None:
    schema.pop("default", None)
    for child in _children(schema):
        _drop_defaults(child)


def _children(schema: Schema) -> Iterator[Schema]:
    yield from schema.get("properties", {}).values()
    yield from (schema[key] for key in ("items", "additionalProperties") if key in schema)


def _unbounded(schema: Schema, path: str) -> Iterator[str]:
    bounds = {"string": "maxLength", "array": "maxItems"}
    bound = bounds.get(schema.get("type", ""), "")
    if "additionalProperties" in schema:
        bound = "maxProperties"
    if bound and bound not in schema and "enum" not in schema:
        yield path
    for name, child in schema.get("properties", {}).items():
        yield from _unbounded(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from _unbounded(schema[key], f"{path}[]")


def subclasses(model: type[Model]) -> Iterator[type[Model]]:
    """All models that derive from it."""
    for child in model.__subclasses__():
        yield child
        yield from subclasses(child)


def flowed(text: str) -> str:
    """A docstring without its line breaks; paragraphs stay."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))


def to_yaml() -> str:
    """The file in crds/."""
    head = "# Generated by `make crds` from operator/ippo_operator/api; not to be edited.\n"
    body = yaml.safe_dump(custom_resource_definition(), sort_keys=False, allow_unicode=True, width=4096)
    return head + str(body)


if __name__ == "__main__":
    sys.stdout.write(to_yaml())
