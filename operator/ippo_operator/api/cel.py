"""The rules of `rules` and `changes` as the API server takes them: in CEL, as entries of x-kubernetes-validations."""

from collections.abc import Iterator
from typing import Any, get_args

from ippo_trainer.contract.params import Model
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from ippo_operator.api import changes
from ippo_operator.api.resource import RUN_NAME, RUN_NAME_WORDS, IterativePPORun, RunSpec
from ippo_operator.api.rules import rules_of

Entry = dict[str, Any]

STARTED_BY = ("stage", "startPolicy")
"""Fields of the status that say that the run has started."""
STARTED = f"has(oldSelf.status) && ({' || '.join(f'has(oldSelf.status.{field})' for field in STARTED_BY)})"
"""The first attempt was named: from here on, the spec is what results are made from."""
_NAME: Entry = {
    "rule": f"self.metadata.name.matches('{RUN_NAME}')",
    "message": f"metadata.name: allowed are {RUN_NAME_WORDS}; child names and artifact paths are made of it",
}


def validations(model: type[Model]) -> list[Entry]:
    """The validations of a model."""
    if model is IterativePPORun:
        return [_NAME, *_changes("spec", RunSpec)]
    rules = [(rule, {"fieldPath": f".{to_camel(rule.field)}"} if rule.field else {}) for rule in rules_of(model)]
    return [{"rule": rule.expression, "message": rule.message, **place} for rule, place in rules]


def _changes(path: str, model: type[Model]) -> Iterator[Entry]:
    """What `changes.problems` says, field by field."""
    for name, field in model.model_fields.items():
        at = f"{path}.{field.alias or name}"
        if at in changes.FREE:
            continue
        if at in changes.RISING:
            yield _change(at, f"self.{at} >= oldSelf.{at}", changes.ONLY_RISES)
        elif any(other.startswith(f"{at}.") for other in (*changes.FREE, *changes.RISING)):
            yield from _changes_within(at, field)
        else:
            same = f"self.{at} == oldSelf.{at}"
            if not field.is_required():
                same = f"has(self.{at}) == has(oldSelf.{at}) && (!has(self.{at}) || {same})"
            yield _change(at, f"({same})", changes.IMMUTABLE)


def _changes_within(at: str, field: FieldInfo) -> Iterator[Entry]:
    """What `changes.problems` says of a section of which only some fields may change, be it one that is left out."""
    entries = _changes(at, _model_of(field.annotation))
    if field.default is not None:
        yield from entries
        return
    yield _change(at, f"has(self.{at}) == has(oldSelf.{at})", changes.IMMUTABLE)
    for entry in entries:
        yield entry | {"rule": f"!has(self.{at}) || !has(oldSelf.{at}) || {entry['rule']}"}


def _change(path: str, allowed: str, message: str) -> Entry:
    """The value may be right but its change is not."""
    rule = f"!({STARTED}) || {allowed}"
    return {"rule": rule, "message": message, "fieldPath": f".{path}", "reason": "FieldValueForbidden"}


def _model_of(annotation: Any) -> type[Model]:
    """The section's model. One that may be left out, as artifacts, is looked into all the same: a run that started has
    it, by a rule of its own."""
    for option in get_args(annotation) or (annotation,):
        if isinstance(option, type) and issubclass(option, Model):
            return option
    raise TypeError(f"{annotation} is no section")
