"""Chat requests: who answers, whose words those are, and that they are logged before the client has their end."""

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import web

from ippo_trainer.contract.live import Route, Routes
from ippo_trainer.gateway import entries, server_sent
from ippo_trainer.gateway.arms import Assignment, Earlier, assign
from ippo_trainer.gateway.bodies import encoded
from ippo_trainer.gateway.event_log import EventLog
from ippo_trainer.gateway.keys import Caller
from ippo_trainer.gateway.memory import Memory
from ippo_trainer.gateway.metrics import GatewayMetrics
from ippo_trainer.gateway.policies import Policies, PolicyDownError, records_in
from ippo_trainer.gateway.schemas import ChatBody, RequestMetadata, read
from ippo_trainer.gateway.sending import Sending
from ippo_trainer.gateway.server_sent import BrokenStreamError
from ippo_trainer.http.errors import RequestError
from ippo_trainer.http.names import HEADER, ConversationNames
from ippo_trainer.live.events import Event

_PRIVATE = ("return_record", "persona_instructions")
"""Fields between gateway and policy server."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class ChatTools:
    """What answers need."""

    routes: Callable[[], Routes]
    policies: Policies
    log: EventLog
    metrics: GatewayMetrics
    memory: Memory
    choices: int
    """Of one answer, at most."""
    logged_id: Callable[[str], str]
    """A conversation's id as it is in the log."""


@dataclass(frozen=True)
class _Question:
    names: ConversationNames
    choices: int
    assignment: Assignment
    active: Route
    body: bytes
    """For the policy server."""
    start: float
    """When it came, by `time.monotonic`."""

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer."""
        return {HEADER: self.names.conversation} if self.names.conversation.isascii() else {}


class ChatRelay:
    """Answers chat requests."""

    def __init__(self, tools: ChatTools) -> None:
        self._tools = tools

    async def answer(
        self, request: web.Request, value: dict[str, Any], caller: Caller, sending: Sending
    ) -> web.StreamResponse:
        """The answer of a policy server to a body, whole or streamed. Raises RequestError."""
        asked = read(ChatBody, value)
        question = self._question(request, value, asked, caller)
        if asked.stream:
            return await self._streamed(question, sending)
        return await self._whole(question)

    def _question(self, request: web.Request, value: dict[str, Any], asked: ChatBody, caller: Caller) -> _Question:
        start, routes = time.monotonic(), self._tools.routes()
        for field in _PRIVATE:
            if field in value:
                raise RequestError(400, f"{field} is for the gateway alone: leave it out", field)
        if asked.model not in (None, routes.run):
            message = f"there is no model {asked.model!r:.300} here; this gateway answers to {routes.run}"
            raise RequestError(404, message, "model")
        choices = asked.n or 1
        if choices > self._tools.choices:
            raise RequestError(400, f"n is {choices}, at most {self._tools.choices} choices are made at once", "n")
        names = names_of(request, asked, caller)
        earlier = self._tools.memory.conversations.get(names.conversation)
        assignment = assign(routes, self._tools.logged_id(names.conversation), earlier)
        if not names.anonymous:
            now = Earlier(assignment.route.digest, entries.persona(assignment))
            self._tools.memory.conversations.put(names.conversation, now)
        body = encoded(_private(value, names, assignment))
        return _Question(names, choices, assignment, routes.active, body, start)

    async def _whole(self, question: _Question) -> web.Response:
        async def ask(route: Route) -> tuple[dict[str, Any], list[dict[str, Any]]]:
            answer = await self._tools.policies.whole(route, question.body)
            return answer, records_in(answer, question.choices, question.names)

        (answer, records), route = await self._first(question, ask)
        if not await self._logged(question, records, route):
            answer["logged"] = False
        return web.json_response(answer, headers=question.headers)

    async def _streamed(self, question: _Question, sending: Sending) -> web.StreamResponse:
        async def ask(route: Route) -> web.StreamResponse:
            try:
                async with self._tools.policies.asked(route, question.body) as answer:
                    await self._relay(question, route, server_sent.events_of(answer.content), sending)
            except PolicyDownError:
                if not sending.begun:
                    raise
                await self._unanswered(question, 503)
                await sending.send(server_sent.event_of(_BROKEN_OFF.body()))
            return await sending.end()

        sending.headers = question.headers
        response, _ = await self._first(question, ask)
        return response

    async def _relay(self, question: _Question, route: Route, events: AsyncIterator[bytes], sending: Sending) -> None:
        """Passes events on, but for the records. Raises BrokenStreamError for what is no whole answer."""
        recorded, logged = False, True
        async for event in events:
            if server_sent.is_error(event):
                raise BrokenStreamError("the policy server failed while it answered")
            if server_sent.has_records(event):
                records = records_in(server_sent.value_of(event), question.choices, question.names)
                logged, recorded = await self._logged(question, records, route), True
                continue
            if event == server_sent.DONE:
                if not recorded:
                    raise BrokenStreamError("its answer has no records: it is no ippo-serve of this release")
                await sending.send(event)
                return
            if not logged:
                event = server_sent.event_of(server_sent.value_of(event) | {"logged": False})
            await sending.send(event)
        raise BrokenStreamError("its answer has no end")

    async def _first(self, question: _Question, ask: Callable[[Route], Awaitable[_T]]) -> tuple[_T, Route]:
        """What the first policy says that answers, and which one. RequestError, 503, if none does."""
        own, active, policies = question.assignment.route, question.active, self._tools.policies
        routes = [own] if own == active else [active] if policies.rests(own) else [own, active]
        for route in routes:
            try:
                return await ask(route), route
            except PolicyDownError as failure:
                policies.note(route, failure)
        await self._unanswered(question, 503)
        raise RequestError(503, "no policy server answers; try again", code="no_policy")

    async def _logged(self, question: _Question, records: list[dict[str, Any]], route: Route) -> bool:
        """Whether the suggestions are logged."""
        tools, assignment = self._tools, question.assignment
        fallback, seconds = route != assignment.route, time.monotonic() - question.start
        events: list[Event] = []
        for number, record in enumerate(records):
            stamp = self._stamp(question, f"{record['id']}-{number}")
            events.append(entries.suggestion(stamp, assignment, record, seconds, fallback))
        tools.metrics.suggestions.labels(assignment.arm).inc(len(events))
        tools.metrics.fallbacks.inc(fallback)
        tools.memory.suggested(records[0]["id"], question.names.conversation, records[0]["turn"])
        try:
            await tools.log.add(events)
        except RequestError:
            tools.metrics.unlogged.inc()
            return False
        return True

    async def _unanswered(self, question: _Question, status: int) -> None:
        self._tools.metrics.unanswered.inc()
        stamp = self._stamp(question, f"event-{uuid.uuid4().hex}")
        try:
            await self._tools.log.add([entries.unanswered(stamp, question.assignment, status)])
        except RequestError:
            self._tools.metrics.unlogged.inc()

    @staticmethod
    def _stamp(question: _Question, identifier: str) -> entries.Stamp:
        return entries.Stamp(identifier, time.time(), question.names.conversation)


_BROKEN_OFF = RequestError(503, "the answer broke off; ask again", code="broken_off")


def names_of(request: web.Request, asked: ChatBody, caller: Caller) -> ConversationNames:
    """Whose a request is. Raises RequestError for an id that is none, and for one that the caller may not name."""
    metadata = asked.metadata or RequestMetadata()
    header = request.headers.get(HEADER)
    if header is not None:
        header = read(RequestMetadata, {"conversation_id": header}).conversation_id
    if header and metadata.conversation_id and header != metadata.conversation_id:
        raise RequestError(400, f"{HEADER} and metadata.conversation_id name two conversations", "metadata")
    own = f"{caller.prefix}conv-{uuid.uuid4().hex}"
    conversation = metadata.conversation_id or header
    customer = metadata.customer_id or asked.user or asked.safety_identifier or ""
    for identifier, field in ((conversation, "metadata.conversation_id"), (customer, "metadata.customer_id")):
        if identifier:
            caller.check_owns(identifier, field)
    return ConversationNames(conversation or own, not conversation, customer, metadata.group or "")


def _private(value: dict[str, Any], names: ConversationNames, assignment: Assignment) -> dict[str, Any]:
    """The body for the policy server."""
    whose = {"conversation_id": names.conversation, "customer_id": names.customer, "group": names.group}
    said = {**(value.get("metadata") or {}), **{field: name for field, name in whose.items() if name}}
    body = {**value, "metadata": said, "return_record": True}
    body.pop("model", None)  # its answer says which policy it is
    persona = assignment.persona
    if persona is not None:
        body |= {"persona_instructions": persona.instructions} if persona.instructions else {}
        for field, setting in (("temperature", persona.temperature), ("min_p", persona.min_p)):
            body |= {} if setting is None else {field: float(setting)}
    return body
