"""What may change in the spec of a run that has started.

In a cluster the API server enforces it, by rules of the CRD that `api.cel` writes from the tables below. `problems`
enforces it for runs in a folder, and tells `ippo diff` beforehand.
"""

from typing import Any

from ippo_operator.api.fitting import fitted
from ippo_operator.api.problems import Problem, shown
from ippo_operator.api.resource import RunSpec
from ippo_operator.api.run_sections import S3

FREE = (
    "spec.suspend",
    "spec.promotion.approve",
    "spec.promotion.reject",
    "spec.promotion.judgement",
    "spec.cleanup",
    "spec.report",
    "spec.pods",
    "spec.retries.requested",
    "spec.queue",
    "spec.serve",
    "spec.gateway",
    "spec.collect.logged.minConversations",
    "spec.collect.logged.minOutcomes",
    "spec.collect.logged.personas",
    "spec.collect.logged.maxExploration",
    "spec.serviceAccountName",
    "spec.fitQ.onUninformative",
    "spec.fitQ.maxCollections",
    *(f"spec.artifacts.s3.{field}" for field in S3.ADDRESS),
)
"""How a run is run, not what it computes."""
IMMUTABLE = "is immutable since the run started; put it back or start a new run"
RISING = (
    "spec.iterations.max",
    "spec.retries.tryAgain",
    "spec.retries.crashes",
    "spec.retries.disruptions",
)
ONLY_RISES = "may only rise since the run started"


def problems(old: RunSpec, new: RunSpec) -> list[Problem]:
    """The changes between two specs that are not allowed: one line each with both values."""
    broken = []
    for path, was, now in between(old, new):
        change = f"given {shown(now)} instead of {shown(was)}; this field"
        if _is_free(path) or (path in RISING and int(now or 0) >= int(was or 0)):
            continue
        broken.append(Problem(path, f"{change} {ONLY_RISES if path in RISING else IMMUTABLE}"))
    return broken


def between(old: RunSpec, new: RunSpec) -> list[tuple[str, Any, Any]]:
    """Each field that differs, with both values; None where there is none.

    A default that depends on the base counts as its value: a release that wrote it down meant the same.
    """
    before, after = (_flat("spec", fitted(spec).model_dump(mode="json", by_alias=True)) for spec in (old, new))
    pairs = [(path, before.get(path), after.get(path)) for path in sorted(before.keys() | after.keys())]
    return [(path, was, now) for path, was, now in pairs if was != now]


def in_words() -> str:
    """What may change, for people."""
    free, rising = (", ".join(f"`{path}`" for path in paths) for paths in (FREE, RISING))
    return (
        f"Once a run has started, these may change: {free}. These may only rise: {rising}. "
        "All else is what results are made from, so a change is refused."
    )


def _is_free(path: str) -> bool:
    return any(path == free or path.startswith(f"{free}.") for free in FREE)


def _flat(path: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {name: leaf for key, child in value.items() for name, leaf in _flat(f"{path}.{key}", child).items()}
