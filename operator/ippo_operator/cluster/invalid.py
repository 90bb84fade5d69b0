"""Runs that cannot be worked on although the API server took them: the conditions say so, all else stays as it was."""

from datetime import datetime
from typing import Any

from ippo_operator.api.reasons import Reason
from ippo_operator.api.status import short, to_rfc3339
from ippo_operator.cluster.client import Manifest

_TRUTH = {"Accepted": "False", "Reconciling": "False", "Stalled": "True", "Ready": "False"}


def status(raw: Manifest, problem: str, now: datetime, reason: Reason) -> Manifest | None:
    """The run's status with conditions that tell of the problem; None where they do so already.

    The run heals by itself: once the spec is mended, a pass rewrites all conditions.
    """
    generation = raw["metadata"]["generation"]
    before = raw.get("status") or {}
    made = before | {"conditions": _conditions(before, generation, problem, now, reason)}
    made["observedGeneration"] = generation
    return made if made != before else None


def _conditions(status: Manifest, generation: int, problem: str, now: datetime, reason: Reason) -> list[dict[str, Any]]:
    """Those that the problem decides, before all others as they were."""
    old = {condition["type"]: condition for condition in status.get("conditions") or ()}
    made = {
        kind: _condition(kind, truth, old.get(kind), generation, problem, now, reason) for kind, truth in _TRUTH.items()
    }
    return list((old | made).values())


def _condition(
    kind: str, truth: str, before: dict[str, Any] | None, generation: int, problem: str, now: datetime, reason: Reason
) -> dict[str, Any]:
    same = before is not None and before.get("status") == truth
    return {
        "type": kind,
        "status": truth,
        "reason": str(reason),
        "message": short(problem),
        "observedGeneration": generation,
        "lastTransitionTime": before["lastTransitionTime"] if same and before is not None else to_rfc3339(now),
    }
