"""The gateway's HTTP side for applications: who may ask, how much at once, and what they get."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from aiohttp import web

from ippo_trainer.contract.live import Routes
from ippo_trainer.gateway import page, schemas
from ippo_trainer.gateway.admission import Admission, GatewayLimits
from ippo_trainer.gateway.bodies import read_object, size_of
from ippo_trainer.gateway.chat import ChatRelay, ChatTools
from ippo_trainer.gateway.event_log import EventLog
from ippo_trainer.gateway.keys import Caller, Keys
from ippo_trainer.gateway.memory import Memory
from ippo_trainer.gateway.metrics import GatewayMetrics
from ippo_trainer.gateway.openapi import document
from ippo_trainer.gateway.operations import CHAT, ERASE, MODELS, REPORTS, Operation
from ippo_trainer.gateway.policies import Policies
from ippo_trainer.gateway.reports import Reports, answer_of
from ippo_trainer.gateway.sending import ClientGoneError, Sending
from ippo_trainer.http.cors import Cors
from ippo_trainer.http.ending import Ending
from ippo_trainer.http.errors import RequestError
from ippo_trainer.http.middleware import CLIENT_GONE, failures, noting
from ippo_trainer.live.events import ACTIVE, CANDIDATE

_PACKAGE = "iterative-ppo"
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_Answer = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class GatewayParts:
    """What a gateway is made of."""

    routes: Callable[[], Routes]
    keys: Callable[[], Keys]
    policies: Policies
    log: EventLog
    metrics: GatewayMetrics
    limits: GatewayLimits = field(default_factory=GatewayLimits)
    logged_id: Callable[[str], str] = str
    """A conversation's id as it is in the log."""
    origins: Sequence[str] = ()
    """Of pages in browsers that may ask."""


class GatewayServer:
    """Answers applications."""

    def __init__(self, parts: GatewayParts) -> None:
        self._parts, self._limits = parts, parts.limits
        self.ending = Ending()
        self._admission = Admission(parts.limits, self.ending)
        memory = Memory()
        tools = ChatTools(
            parts.routes, parts.policies, parts.log, parts.metrics, memory, parts.limits.choices, parts.logged_id
        )
        self._chat = ChatRelay(tools)
        self._reports = Reports(parts.log, memory, parts.metrics)
        self._created = int(time.time())
        self._document = document(version(_PACKAGE))

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=self._limits.body_bytes, middlewares=[failures(self._limits.body_bytes)])
        Cors(self._parts.origins).install(app)
        self.ending.install(app)
        app.router.add_get("/healthz", healthy)
        app.router.add_get("/readyz", self.ready)
        app.router.add_get("/openapi.json", self._openapi)
        page.install(app)
        self._add(app, CHAT, self._chat_answer)
        self._add(app, MODELS, self._models)
        for operation in (*REPORTS, ERASE):
            self._add(app, operation, self._report_answer(operation))
        return app

    async def ready(self, _: web.Request) -> web.Response:
        """200 while requests are taken."""
        draining = self.ending.draining
        return web.Response(status=503, text="it is about to end") if draining else web.Response(text="ok")

    def show(self) -> None:
        """Sets the gauges that are asked for when metrics are."""
        metrics, routes = self._parts.metrics, self._parts.routes()
        metrics.ready.set(not self.ending.draining)
        metrics.in_flight.set(self.ending.in_flight)
        metrics.policies.clear()
        metrics.policies.labels(ACTIVE, routes.active.digest).set(1)
        if routes.canary is not None:
            metrics.policies.labels(CANDIDATE, routes.canary.route.digest).set(1)

    def _add(self, app: web.Application, operation: Operation, answer: _Answer) -> None:
        app.router.add_route(operation.method, operation.path, self._handler(operation, answer))

    def _handler(self, operation: Operation, answer: _Answer) -> _Handler:
        """Counts, asks for the key, and lets in what there is room for."""
        metrics, seconds = self._parts.metrics, self._parts.metrics.seconds.labels(operation.name)

        async def handle(request: web.Request) -> web.StreamResponse:
            start = time.monotonic()

            def note(status: int) -> None:
                metrics.requests.labels(operation.name, str(status)).inc()
                seconds.observe(time.monotonic() - start)

            try:
                return await noting(self._admitted(request, operation, answer), note)
            except ClientGoneError:
                return web.Response(status=CLIENT_GONE)  # its connection is closed

        return handle

    async def _admitted(self, request: web.Request, operation: Operation, answer: _Answer) -> web.StreamResponse:
        if self.ending.closed:
            raise RequestError(503, "this gateway takes no requests: it is about to end")
        assert operation.scope is not None
        caller = self._parts.keys().caller(request.headers, operation.scope)
        limit = self._limits.body_bytes if operation is CHAT else self._limits.report_bytes
        with self._admission.request(), self._admission.body(size_of(request, limit)):
            return await answer(request, caller)

    async def _chat_answer(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        value = await read_object(request, self._limits.body_bytes, self._limits.body_seconds)
        return await self._chat.answer(request, value, caller, Sending(request, self._limits.write_seconds))

    def _report_answer(self, operation: Operation) -> _Answer:
        async def answer(request: web.Request, caller: Caller) -> web.Response:
            value: dict[str, Any] = {}
            if operation.body is not None:
                value = await read_object(request, self._limits.report_bytes, self._limits.body_seconds)
            said = await self._reports.take(operation, request.match_info, value, request.headers, caller)
            return web.json_response(answer_of(said))

        return answer

    async def _models(self, _: web.Request, __: Caller) -> web.Response:
        routes = self._parts.routes()
        entry = schemas.ModelEntry(id=routes.run, created=self._created, root=routes.active.digest)
        return web.json_response(schemas.ModelsAnswer(data=[entry]).model_dump())

    async def _openapi(self, _: web.Request) -> web.Response:
        return web.json_response(self._document)


async def healthy(_: web.Request) -> web.Response:
    """200 while the process runs."""
    return web.Response(text="ok")
