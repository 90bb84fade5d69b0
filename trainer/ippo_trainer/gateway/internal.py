"""The gateway's HTTP side for the operator and for whoever scrapes metrics: on a port of its own."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from aiohttp import web

from ippo_trainer.contract.errors import StageError
from ippo_trainer.contract.live import REPORT_PATH, LiveReport, Routes
from ippo_trainer.gateway.app import GatewayServer, healthy
from ippo_trainer.gateway.metrics import GatewayMetrics
from ippo_trainer.http.errors import RequestError
from ippo_trainer.http.middleware import failures

_BODY = 1 << 10


class Index(Protocol):
    """As `live.index.LiveIndex`."""

    def report(self, routes: Routes, now: float) -> LiveReport:
        """What is in the store, counted. Not for two threads at once. Raises StageError while it does not answer."""
        ...


class InternalServer:
    """Answers the operator.

    Args:
        server: for applications, whose state it tells.
        routes: as of now.
        metrics: of the gateway.
        index: of what is in the store.
    """

    def __init__(
        self, server: GatewayServer, routes: Callable[[], Routes], metrics: GatewayMetrics, index: Index
    ) -> None:
        self._server, self._routes, self._metrics, self._index = server, routes, metrics, index
        # One thread: the index is not for several.
        self._counting = ThreadPoolExecutor(1, "report")

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=_BODY, middlewares=[failures(_BODY)])
        app.on_cleanup.append(self._end)
        app.router.add_get("/healthz", healthy)
        app.router.add_get("/readyz", self._server.ready)
        app.router.add_get("/metrics", self._show)
        app.router.add_get(REPORT_PATH, self._report)
        return app

    async def _end(self, _: web.Application) -> None:
        self._counting.shutdown(wait=False, cancel_futures=True)

    async def _show(self, _: web.Request) -> web.Response:
        self._server.show()
        return web.Response(body=self._metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _report(self, _: web.Request) -> web.Response:
        loop = asyncio.get_running_loop()
        try:
            report = await loop.run_in_executor(self._counting, self._index.report, self._routes(), time.time())
        except StageError as error:
            raise RequestError(503, f"there is no report: {error}", code="no_report") from error
        return web.Response(text=report.model_dump_json(by_alias=True), content_type="application/json")
