"""Whether reasons stand where `api.reasons` says that they are found; every status that a test writes is asked."""

from collections.abc import Iterator, Mapping
from typing import Any

from ippo_operator.api.reasons import Reason


def misplaced(status: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Reasons, and places where they stand but are not said to be found.

    Args:
        status: of a run, as JSON.
    """
    return {(reason, place) for reason, place in _placed(status) if place not in Reason(reason).places}


def _placed(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for condition in status.get("conditions") or ():
        yield condition["reason"], condition["type"]
    if status.get("lastFailure"):
        yield status["lastFailure"]["reason"], "lastFailure"
    for section in ("serving", "live"):
        for part in (status.get(section) or {}).values():
            if isinstance(part, dict) and "reason" in part:
                yield part["reason"], section
