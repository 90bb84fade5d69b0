"""The life of a gateway: it opens its journal, listens, and ends without losing an event."""

import asyncio
import logging
import signal
from contextlib import AsyncExitStack

from aiohttp import web

from ippo_trainer.contract.live import Routes
from ippo_trainer.gateway.app import GatewayParts, GatewayServer
from ippo_trainer.gateway.event_log import EventLog
from ippo_trainer.gateway.internal import InternalServer
from ippo_trainer.gateway.keys import Keys, OpenGate, read_keys
from ippo_trainer.gateway.metrics import GatewayMetrics
from ippo_trainer.gateway.policies import Policies
from ippo_trainer.gateway.recorder import Recorder
from ippo_trainer.gateway.settings import GatewaySettings
from ippo_trainer.gateway.watched import Watched
from ippo_trainer.http.listen import listen
from ippo_trainer.live.index import LiveIndex
from ippo_trainer.store import open_store

_LOOK_SECONDS = 1.0
"""Between looks at files that may change."""
_LAST_WRITE_SECONDS = 2.0
"""That the journal has at least after the last answer."""
_INDEX = "index.sqlite"
_log = logging.getLogger(__name__)


async def serve(settings: GatewaySettings) -> int:
    """Serves until SIGTERM or Ctrl-C; returns the exit code.

    Raises:
        StageError: a file that cannot be read, a journal that another process has, a port that is taken.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    routes = Watched(settings.routes, "the file of routes", Routes.model_validate_json)
    keys: Watched[Keys] | None = None
    if settings.keys is not None:
        keys = Watched(settings.keys, "the file of API keys", read_keys)
    gates, metrics = OpenGate(), GatewayMetrics()
    metrics.stale.labels("routes").set_function(lambda: routes.stale)
    metrics.stale.labels("keys").set_function(lambda: keys is not None and keys.stale)
    store = open_store(settings.log)
    recorder = Recorder(settings, store)
    metrics.watch(recorder)
    policies = Policies(settings.limits.requests, settings.patience)
    server = GatewayServer(
        GatewayParts(
            lambda: routes.current,
            lambda: gates if keys is None else keys.current,
            policies,
            EventLog(recorder.journal),
            metrics,
            settings.limits,
            recorder.logged_id,
            settings.origins,
        )
    )
    index = LiveIndex(settings.journal / _INDEX, store)
    internal = InternalServer(server, lambda: routes.current, metrics, index)
    async with AsyncExitStack() as stack:
        await policies.start()
        stack.push_async_callback(policies.stop)
        for keep in (routes.keep, *([] if keys is None else [keys.keep])):
            stack.callback(asyncio.ensure_future(keep(_LOOK_SECONDS)).cancel)
        await _listen(stack, internal.application(), settings.internal_port, "--internal-port", settings)
        public = await _listen(stack, server.application(), settings.port, "--port", settings)
        _log.info("ready: policy %s of run %s", routes.current.active.digest, routes.current.run)
        await stop.wait()
        end = loop.time() + settings.grace
        await server.ending.drain(settings.linger, settings.grace, public)
        await asyncio.to_thread(recorder.close, max(_LAST_WRITE_SECONDS, end - loop.time()))
    return 0


async def _listen(
    stack: AsyncExitStack, app: web.Application, port: int, argument: str, settings: GatewaySettings
) -> web.AppRunner:
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=1.0,
        keepalive_timeout=settings.limits.idle_seconds,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await listen(runner, port, argument)
    _log.info("listening on port %d (%s)", runner.addresses[0][1], argument)
    return runner
