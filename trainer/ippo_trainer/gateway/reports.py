"""What applications report: reactions, outcomes, complaints, ends of conversations."""

import hashlib
import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticCustomError

from ippo_trainer.gateway import schemas
from ippo_trainer.gateway.entries import Stamp, keyed_id
from ippo_trainer.gateway.event_log import EventLog
from ippo_trainer.gateway.keys import Caller
from ippo_trainer.gateway.memory import Memory
from ippo_trainer.gateway.metrics import GatewayMetrics
from ippo_trainer.gateway.operations import Operation
from ippo_trainer.http.errors import RequestError
from ippo_trainer.live import events

IDEMPOTENCY = "Idempotency-Key"
_MOST_TURNS = 10_000
_AHEAD = 86_400.0
"""Seconds that a client's clock may be ahead."""


class Reports:
    """Logs reports.

    Args:
        log: durable.
        memory: of this replica, which knows whose a suggestion was.
        metrics: of the gateway.
    """

    def __init__(self, log: EventLog, memory: Memory, metrics: GatewayMetrics) -> None:
        self._log, self._memory, self._metrics = log, memory, metrics

    async def take(
        self,
        operation: Operation,
        place: Mapping[str, str],
        value: dict[str, Any],
        headers: Mapping[str, str],
        caller: Caller,
    ) -> schemas.EventAnswer:
        """Answers a report once it is logged.

        Args:
            operation: one that has a kind of event.
            place: what the path names, `id` and `turn`.
            value: the body; empty where the operation has none.
            headers: of the request.
            caller: who reports.

        Raises:
            RequestError: 400, 403, 409 or 503.
        """
        assert operation.kind is not None
        now = time.time()
        body = {} if operation.body is None else schemas.read(operation.body, value).model_dump(exclude_none=True)
        said = body | _place(place)
        conversation, customer = said.pop("id", ""), said.pop("customer_id", "")
        caller.check_owns(conversation or customer, "conversation_id" if conversation else "customer_id")
        key, fingerprint = _idempotency(headers), b""
        if operation.kind == events.ERASED:
            event_id = events.erased_id(conversation)
        elif key:
            event_id = keyed_id(caller.name, key)
            fingerprint = _fingerprint(operation.name, conversation, customer, said)
        else:
            event_id = f"event-{uuid.uuid4().hex}"
        at = _moment(said.pop("time", now), now)
        fields = self._fields(operation.kind, conversation, customer, said | {"at": at})
        await self._log.add([Stamp(event_id, now, conversation).event(operation.kind, **fields)], fingerprint)
        suggestion_known = operation.kind != events.REACTION or self._knows(conversation, fields)
        return schemas.EventAnswer(
            event_id=event_id,
            conversation_id=conversation,
            customer_id=customer,
            suggestion_known=suggestion_known,
        )

    def _knows(self, conversation: str, reaction: dict[str, Any]) -> bool:
        """Whether this replica made the suggestion that a reaction is to. It may have forgotten it, or another one
        made it: only whoever reads the log can tell for sure, so the reaction is taken in any case."""
        remembers = self._memory.knows(reaction["suggestion_id"], conversation, reaction["turn"])
        self._metrics.unknown.inc(not remembers)
        return remembers

    def _fields(self, kind: events.Kind, conversation: str, customer: str, said: dict[str, Any]) -> dict[str, Any]:
        """Of an event, of what a report says."""
        if kind == events.ERASED:
            return {}
        if kind in (events.OUTCOME, events.COMPLAINT):
            return said | {"customer_id": customer}
        if kind == events.CLOSE:
            return {"outcome": None} | said
        sent, suggestion = said.get("sent"), said.get("suggestion_id", "")
        if said["reaction"] == "edited" and not (sent or "").strip():
            raise RequestError(400, "sent is missing: an edited suggestion needs the text that was sent", "sent")
        if said["reaction"] == "accepted" and sent is not None:
            raise RequestError(400, "sent is for suggestions that were edited or rejected: leave it out", "sent")
        owner = self._memory.suggestions.get(suggestion) if suggestion else None
        if owner not in (None, hash(conversation)):
            raise RequestError(400, "suggestion_id is of another conversation", "suggestion_id")
        return said | {"sent": sent, "suggestion_id": suggestion}


def _place(place: Mapping[str, str]) -> dict[str, Any]:
    """What a path names. Raises RequestError."""
    named: dict[str, Any] = {}
    if "id" in place:
        try:
            named["id"] = schemas.name(place["id"])
        except PydanticCustomError as error:
            raise RequestError(
                400, f"the conversation's id is not allowed: {error.message()}", "conversation_id"
            ) from error
    if "turn" in place:
        turn = place["turn"]
        if not (turn.isascii() and turn.isdecimal() and len(turn) <= 6 and int(turn) < _MOST_TURNS):
            raise RequestError(400, f"the turn has to be a number from 0 to {_MOST_TURNS - 1}", "turn")
        named["turn"] = int(turn)
    return named


def _moment(at: float, now: float) -> float:
    if at > now + _AHEAD:
        raise RequestError(
            400, "time is more than a day ahead of the gateway's clock: check yours, and its zone", "time"
        )
    return at


def _idempotency(headers: Mapping[str, str]) -> str:
    if IDEMPOTENCY not in headers:
        return ""
    try:
        return schemas.name(headers[IDEMPOTENCY])
    except PydanticCustomError as error:
        raise RequestError(400, f"{IDEMPOTENCY} is not allowed: {error.message()}", IDEMPOTENCY) from error


def _fingerprint(operation: str, conversation: str, customer: str, said: Mapping[str, Any]) -> bytes:
    text = json.dumps([operation, conversation, customer, said], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def answer_of(answer: BaseModel) -> dict[str, Any]:
    """What a client gets: nothing that is empty, or as ever."""
    return answer.model_dump(exclude_defaults=True)
