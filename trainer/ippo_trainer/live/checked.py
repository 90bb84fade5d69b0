"""Events as they are read: a line that no gateway of this release wrote is refused, before it says anything."""

import json
import math
from typing import Any

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.reactions import REACTIONS
from ippo_trainer.data.server_log import checked as checked_record
from ippo_trainer.live.events import (
    CLOSE,
    COMPLAINT,
    ERASED,
    KINDS,
    OUTCOME,
    REACTION,
    SUGGESTION,
    UNANSWERED,
    VERSION,
    Event,
)

_FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    SUGGESTION: {"arm": (str,), "persona": (str,), "suggestion": (dict,), "seconds": (int, float)},
    UNANSWERED: {"arm": (str,)},
    REACTION: {"turn": (int,), "suggestion_id": (str,), "reaction": (str,), "sent": (str, type(None)), "at": (float,)},
    OUTCOME: {"customer_id": (str,), "outcome": (bool,), "at": (float,)},
    COMPLAINT: {"customer_id": (str,), "at": (float,)},
    CLOSE: {"outcome": (bool, type(None)), "at": (float,)},
    ERASED: {},
}
"""By kind: what an event has besides its version, kind, id, time and conversation, and of which types."""
_ALL: dict[str, tuple[type, ...]] = {"event_id": (str,), "time": (int, float), "conversation_id": (str,)}
_LATER = "Use the release of the newest gateway."


def read_event(line: bytes, place: str) -> Event:
    """An event of a segment.

    Args:
        line: JSON.
        place: segment and line, for errors.

    Raises:
        BadDataError: no event, or one of a newer release.
    """
    try:
        event: Event = json.loads(line)
        if event["version"] != VERSION:
            raise BadDataError(f"{place} is of version {event['version']!r:.20}, this release reads {VERSION}", _LATER)
        kind = event["kind"]
        if kind not in KINDS:
            raise BadDataError(f"{place} is of kind {kind!r:.40}, which this release does not know", _LATER)
        _check(event, _ALL | _FIELDS[kind])
        if kind == SUGGESTION:
            checked_record(event["suggestion"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadDataError(
            f"{place} is not what a gateway of this release logs ({type(error).__name__})",
            "Take the segment out of the folder.",
        ) from error
    return event


def _check(event: dict[str, Any], fields: dict[str, tuple[type, ...]]) -> None:
    for name, types in fields.items():
        value: Any = event.get(name, event["time"] if name == "at" else None)
        if float in types:
            value = float(value)
            if not math.isfinite(value):
                raise ValueError(name)
            event[name] = value
        elif type(value) not in types:
            raise TypeError(name)
    if event["kind"] == REACTION and event["reaction"] not in REACTIONS:
        raise ValueError("reaction")
