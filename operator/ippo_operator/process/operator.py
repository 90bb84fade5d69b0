"""What the operator's process is made of, from start to stop."""

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Callable
from typing import Any

import aiohttp.web
from ippo_trainer.contract.errors import BAD_SPEC, FAILED

from ippo_operator.cluster.access import kubeconfig
from ippo_operator.cluster.access.files import KubeconfigError
from ippo_operator.cluster.access.kubeconfig import Flags
from ippo_operator.cluster.client import SMALL, Client, RetryPolicy
from ippo_operator.cluster.clock import ServerClock
from ippo_operator.cluster.connection import KubernetesTransport
from ippo_operator.cluster.lease import Lease, LeaseTimes
from ippo_operator.cluster.reconcile import Reconciler
from ippo_operator.process import logs
from ippo_operator.process.health import Health, application
from ippo_operator.process.metrics import CountingTransport, Metrics
from ippo_operator.process.options import Options
from ippo_operator.process.watches import Watches
from ippo_operator.process.workers import Workers, WorkPace

_log = logging.getLogger("ippo.operator")


def run(options: Options) -> int:
    """Runs until the process is told to stop, and returns its exit code."""
    logs.configure(options.log_format, options.log_level)
    gc.freeze()  # what was imported stays for ever: half a million objects that need no looking at
    try:
        return asyncio.run(_run(options))
    except KubeconfigError as error:
        print(f"ippo-operator: {error}", file=sys.stderr)
        return BAD_SPEC
    except OSError as error:
        print(f"ippo-operator: port {options.port} cannot be used: {error.strerror}", file=sys.stderr)
        return BAD_SPEC


async def _run(options: Options) -> int:
    flags = Flags(context=options.context)
    login = kubeconfig.load(flags)
    clock = ServerClock()
    metrics = Metrics(clock)
    async with KubernetesTransport(login, lambda: kubeconfig.load(flags)) as transport:
        await transport.connection()
        workers = _workers(options, CountingTransport(transport, metrics), metrics, clock, lambda: watches.restart())
        watches = Watches(workers, lambda: kubeconfig.load(flags), options.namespaces)
        health = Health(workers, lambda: watches.problem)
        ask(metrics, workers, health)
        probes = await _serve(options.port, health, metrics)
        workers.start()
        watches.start()
        _log.info("watching %s as %s", ", ".join(options.namespaces) or "all namespaces", options.identity)
        try:
            return await _until_stopped(workers)
        finally:
            await watches.stop()
            await workers.stop()
            await probes.cleanup()


async def _until_stopped(workers: Workers) -> int:
    """Until SIGTERM or Ctrl-C, or until a loop failed that nothing goes on without."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    waiting: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
    ends: list[asyncio.Future[Any]] = [waiting, workers.failed]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not workers.failed.done():
        _log.info("told to stop")
        return 0
    error = workers.failed.exception()
    _log.error("the operator ends: %s", error, exc_info=error)
    return FAILED


def _workers(
    options: Options,
    transport: CountingTransport,
    metrics: Metrics,
    clock: ServerClock,
    renew_watches: Callable[[], None],
) -> Workers:
    times = LeaseTimes()
    # A renewal that takes longer than its turn is a renewal that failed.
    impatient = RetryPolicy(attempts=1, timeout=times.renew_every)
    unfenced = Client(transport, retries=impatient, clock=clock)
    lease = Lease(unfenced, options.lease_namespace, options.lease_name, options.identity, times)
    client = Client(transport, lease.check, clock=clock)
    small = Client(transport, lease.check, clock=clock, most=SMALL)
    reconciler = Reconciler(
        small, options.platform, options.identity, watcher=metrics.status_written, namespaces=options.namespaces
    )
    pace = WorkPace(workers=options.workers, resync=options.resync)
    large = reconciler.reading_more(client)
    return Workers(
        client, reconciler, lease, metrics, options.namespaces, pace=pace, large=large, renew_watches=renew_watches
    )


def ask(metrics: Metrics, workers: Workers, health: Health) -> None:
    """Adds what is known only when somebody asks."""
    metrics.ask("ippo_queue_depth", "Runs that are due and wait", lambda: workers.queue.depth)
    metrics.ask("ippo_last_watch_event_age_seconds", "Since the last watch event", lambda: workers.index.event_age)
    metrics.ask("ippo_watch_stale_seconds", "For how long the watches miss changes", lambda: workers.index.stale_for)
    metrics.ask("ippo_watches_missing", "1 if not all is watched", lambda: float(health.unwatched is not None))
    metrics.ask("ippo_lease_held", "1 if this process acts", lambda: float(workers.lease.held))
    metrics.ask("ippo_longest_pass_seconds", "Of the passes that go on now", lambda: workers.queue.oldest_work)


async def _serve(port: int, health: Health, metrics: Metrics) -> aiohttp.web.AppRunner:
    runner = aiohttp.web.AppRunner(application(health, metrics), access_log=None, handle_signals=False)
    await runner.setup()
    await aiohttp.web.TCPSite(runner, port=port).start()
    return runner
