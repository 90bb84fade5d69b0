"""What may change in the spec of a run that has started."""

from typing import Any

from ippo_operator.api.cluster import S3
from ippo_operator.api.problems import Problem, shown
from ippo_operator.api.resource import RunSpec

FREE = (
    "spec.suspend",
    "spec.promotion.approve",
    "spec.promotion.reject",
    "spec.cleanup",
    "spec.pods",
    "spec.retries.requested",
    "spec.queue",
    "spec.serve",
    "spec.serviceAccountName",
    "spec.fitQ.onUninformative",
    "spec.fitQ.maxCollections",
    *(f"spec.artifacts.s3.{field}" for field in S3.ADDRESS),
)
"""How a run is run, not what it computes."""
RISING = (
    "spec.iterations.max",
    "spec.retries.tryAgain",
    "spec.retries.crashes",
    "spec.retries.disruptions",
)


def problems(old: RunSpec, new: RunSpec) -> list[Problem]:
    """The changes between two specs that are not allowed: one line each with both values."""
    found = []
    for path, was, now in between(old, new):
        if _is_free(path):
            continue
        given = f"given {shown(now)}, but the run started with {shown(was)}"
        if path not in RISING:
            found.append(Problem(path, f"{given} and this field is immutable since; put it back or start a new run"))
        elif int(now or 0) < int(was or 0):
            found.append(Problem(path, f"{given} and this field may only rise"))
    return found


def between(old: RunSpec, new: RunSpec) -> list[tuple[str, Any, Any]]:
    """Each field that differs, with both values; None where there is none."""
    before = _flat("spec", old.model_dump(mode="json", by_alias=True))
    after = _flat("spec", new.model_dump(mode="json", by_alias=True))
    pairs = [(path, before.get(path), after.get(path)) for path in sorted(before.keys() | after.keys())]
    return [(path, was, now) for path, was, now in pairs if was != now]


def _is_free(path: str) -> bool:
    return any(path == free or path.startswith(f"{free}.") for free in FREE)


def _flat(path: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {name: leaf for key, child in value.items() for name, leaf in _flat(f"{path}.{key}", child).items()}
