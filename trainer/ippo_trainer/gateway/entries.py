"""Events as the gateway makes them; `live.events` says what they hold."""

import hashlib
from dataclasses import dataclass
from typing import Any

from ippo_trainer.contract.personas import NO_PERSONA
from ippo_trainer.gateway.arms import Assignment
from ippo_trainer.live import events
from ippo_trainer.live.events import Event


@dataclass(frozen=True, slots=True)
class Stamp:
    """What every event has."""

    event_id: str
    time: float
    """Seconds since 1970 UTC."""
    conversation: str
    """Empty for a customer's."""

    def event(self, kind: events.Kind, **fields: Any) -> Event:
        """An event of a kind."""
        return {
            "version": events.VERSION,
            "kind": kind,
            "event_id": self.event_id,
            "time": self.time,
            "conversation_id": self.conversation,
            **fields,
        }


def suggestion(stamp: Stamp, assignment: Assignment, record: dict[str, Any], seconds: float, fallback: bool) -> Event:
    """An answer. `fallback`: another policy gave it than the conversation's own."""
    return stamp.event(
        events.SUGGESTION,
        arm=assignment.arm,
        persona=persona(assignment),
        suggestion=record,
        seconds=round(seconds, 4),
        fallback=fallback,
    )


def unanswered(stamp: Stamp, assignment: Assignment, status: int) -> Event:
    """A request that no policy answered."""
    return stamp.event(events.UNANSWERED, arm=assignment.arm, status=status)


def persona(assignment: Assignment) -> str:
    """Its name in events."""
    return NO_PERSONA if assignment.persona is None else assignment.persona.name


def keyed_id(caller: str, key: str) -> str:
    """The id of an event that came with an idempotency key: the key is the caller's own, so nobody else can take it."""
    return "key-" + hashlib.sha256(f"{len(caller)}\n{caller}\n{key}".encode()).hexdigest()[:40]
