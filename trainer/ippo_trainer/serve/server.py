"""The life of a server: it listens at once, takes requests when the policy is loaded, and ends without losing one."""

import asyncio
import logging
import signal
import threading
from contextlib import suppress
from typing import Any, TypeVar

from aiohttp import web

from ippo_trainer.contract.errors import StageError
from ippo_trainer.http.listen import listen
from ippo_trainer.serve.app import ChatServer
from ippo_trainer.serve.loading import load, warm_up
from ippo_trainer.serve.settings import ServedModel, ServerSettings
from ippo_trainer.serve.suggestion_log import SuggestionLog
from ippo_trainer.store import open_store

_LAST_WRITE_SECONDS = 2.0
"""That the log of suggestions has at least after the last answer."""
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


async def serve(settings: ServerSettings, port: int, linger: float, grace: float, address: str = "") -> int:
    """Serves until SIGTERM or Ctrl-C, or until the engine fails; returns the exit code.

    Args:
        settings: what to serve and how.
        port: 0 takes a free one, which the log names.
        linger: seconds after the signal in which requests that still come are answered; their connections are closed.
        grace: seconds after the signal by which all is over.
        address: where to listen; everywhere if left out.

    Raises:
        StageError: the policy cannot be served, or the port is taken.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    chat_server = ChatServer(settings.digest, settings.name, settings.origins)
    if settings.log is not None:
        chat_server.log = SuggestionLog(open_store(settings.log), chat_server.metrics.log())
    runner = web.AppRunner(chat_server.application(), access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await listen(runner, port, address=address)
        _log.info("listening on port %d", runner.addresses[0][1])
        policy = await _until(stop, asyncio.ensure_future(_in_thread(settings)))
        if policy is None:
            return 0
        policy.engine.start()
        if await _until(stop, asyncio.ensure_future(_warm(policy))):
            chat_server.open(policy)
            _log.info("ready: policy %s of run %s", settings.digest, settings.name)
        code = await _until_failure(stop, chat_server)
        end = loop.time() + grace
        await chat_server.ending.drain(linger, grace)
        await policy.engine.stop()
        if chat_server.log is not None:
            await asyncio.to_thread(chat_server.log.close, max(_LAST_WRITE_SECONDS, end - loop.time()))
        return code
    finally:
        await runner.cleanup()


async def _warm(policy: ServedModel) -> bool:
    await warm_up(policy)
    return True


async def _until(stop: asyncio.Event, work: "asyncio.Future[_T]") -> _T | None:
    """What `work` returns; None if the signal came first."""
    stopping = asyncio.ensure_future(stop.wait())
    both: set[asyncio.Future[Any]] = {stopping, work}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if work.done():
        return work.result()
    work.cancel()
    return None


async def _until_failure(stop: asyncio.Event, chat_server: ChatServer) -> int:
    """0 when the signal came, 1 when the engine failed before."""
    while not stop.is_set():
        if chat_server.context is not None and chat_server.context.engine.failure() is not None:
            _log.error("the engine failed: %s", chat_server.context.engine.failure())
            return StageError.exit_code
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 1.0)
    return 0


async def _in_thread(settings: ServerSettings) -> ServedModel:
    """Loads in a thread that does not hold up the end of the process."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[ServedModel] = loop.create_future()

    def hand_over(policy: ServedModel | None, error: BaseException | None) -> None:
        if result.cancelled():
            return
        if error is not None:
            result.set_exception(error)
        elif policy is not None:
            result.set_result(policy)

    def work() -> None:
        try:
            policy, failure = load(settings), None
        except BaseException as error:
            policy, failure = None, error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(hand_over, policy, failure)

    threading.Thread(target=work, name="load", daemon=True).start()
    return await result
