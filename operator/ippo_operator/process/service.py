"""What goes on in the operator's process beside the watches: lease, workers, resync."""

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ippo_operator.cluster import clock, log_context
from ippo_operator.cluster.client import Client, Manifest
from ippo_operator.cluster.errors import ApiError, FencedError, NotFoundError, TooLargeError
from ippo_operator.cluster.lease import Lease
from ippo_operator.cluster.read import UnreadableStatusError
from ippo_operator.cluster.reconcile import Outcome, Reconciler
from ippo_operator.cluster.resources import RUNS
from ippo_operator.cluster.transport import EVERYTHING
from ippo_operator.process.lanes import Lanes
from ippo_operator.process.metrics import Metrics
from ippo_operator.process.queue import KeyedQueue
from ippo_operator.process.sightings import Sightings

Key: TypeAlias = tuple[str, str]
"""Namespace and name of a run."""
_AHEAD = 30.0
"""Seconds. What a run goes on because of comes before all that became due so long ago, but starves nothing."""
_LONGEST_REST = 120.0
"""Seconds. A server may ask for so long a rest before it is asked about a run again."""
_log = logging.getLogger("ippo.operator")


@dataclass(frozen=True)
class Pace:
    """How much at once, and how often."""

    workers: int = 16
    """Passes at the same time."""
    resync: float = 300.0
    """Seconds between two looks at everything."""
    check: float = 60.0
    """Seconds between two checks that the watches miss nothing."""
    drain: float = 20.0
    """Seconds that passes have to end when the process is told to stop."""


class Service:
    """Works on runs while this process holds the lease.

    Args:
        client: for listings; reads only.
        reconciler: does a pass; raises TooLargeError where that takes more memory than many may have at once.
        lease: who may act.
        metrics: are told.
        namespaces: to look at; none for all.
        pace: how much at once, and how often.
        large: does those passes, one at a time.
    """

    def __init__(
        self,
        client: Client,
        reconciler: Reconciler,
        lease: Lease,
        metrics: Metrics,
        namespaces: Sequence[str] = (),
        pace: Pace | None = None,
        large: Reconciler | None = None,
    ) -> None:
        self._client = client
        self._reconciler = reconciler
        self.lease = lease
        self._metrics = metrics
        self._namespaces: list[str | None] = list(namespaces) or [None]
        self.pace = pace or Pace()
        self._large = large or reconciler
        self.queue: Lanes[Key] = Lanes()
        self.sightings = Sightings()
        self._leading = asyncio.Event()
        self._heard: dict[Key, float] = {}
        self._own: dict[Key, str] = {}
        self._meanwhile: dict[Key, str] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start(self) -> None:
        """Starts working."""
        loops = [self._hold_lease(), self._look_at_all(), self._check_watches()]
        loops += [self._work(self.queue.many, self._reconciler) for _ in range(self.pace.workers)]
        loops.append(self._work(self.queue.single, self._large))
        for loop in loops:
            task = asyncio.create_task(loop)
            task.add_done_callback(self._ended)
            self._tasks.append(task)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """No loop may end by itself: the process then ends too, and is started again."""
        if task.cancelled() or self.failed.done():
            return
        self.failed.set_exception(task.exception() or RuntimeError("a loop of the operator ended"))

    async def stop(self) -> None:
        """Lets passes end, then gives up the lease."""
        self._leading.clear()
        deadline = self.queue.clock() + self.pace.drain
        while self.queue.working and self.queue.clock() < deadline:
            await asyncio.sleep(0.05)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.lease.release()

    # What the watches tell

    def run_changed(self, key: Key, version: str) -> None:
        """See Listener. That a pass wrote the status is no reason for another one: it left nothing undone."""
        if not self.sightings.saw(key, version) or version == self._own.get(key):
            return
        if self.queue.busy(key):
            self._meanwhile[key] = version  # most likely the pass's own write; known once it ends
            return
        self._hear(key)
        self.queue.add(key)

    def knows(self, key: Key) -> bool:
        """See Listener."""
        return self.sightings.knows(key)

    def run_deleted(self, key: Key) -> None:
        """See Listener."""
        self.sightings.gone(key)
        self.queue.add(key)

    def child_changed(self, key: Key, delay: float) -> None:
        """See Listener."""
        self.sightings.child_seen()
        self._hear(key)
        self.queue.add(key, delay or -_AHEAD)

    def _hear(self, key: Key) -> None:
        """Takes note of the first event that the next pass answers."""
        self._heard.setdefault(key, self.queue.clock())

    @property
    def answer_age(self) -> float | None:
        """Seconds since the API server last answered the lease's request; None before it ever did."""
        last = self.lease.last_answer
        return None if last is None else clock.steady() - last

    # Loops

    async def _hold_lease(self) -> None:
        while True:
            held = await self.lease.tick()
            if held and not self._leading.is_set():
                for key in self.sightings.known():
                    self.queue.add(key)
                self._leading.set()
            elif not held:
                self._leading.clear()
                self._metrics.forget_runs()
            await asyncio.sleep(self.lease.times.renew_every)

    async def _work(self, queue: KeyedQueue[Key], reconciler: Reconciler) -> None:
        while True:
            await self._leading.wait()
            key = await queue.take()
            try:
                # A task of its own, so that what one pass binds to its log lines does not reach the next one.
                await asyncio.create_task(self._pass(key, reconciler))
            finally:
                queue.done(key)
                told = self._meanwhile.pop(key, None)
                if told is not None and told != self._own.get(key):
                    self._hear(key)
                    self.queue.add(key)

    async def _pass(self, key: Key, reconciler: Reconciler) -> None:
        log_context.bind(namespace=key[0], run=key[1])
        heard = self._heard.pop(key, None)
        try:
            with self._metrics.reconcile.time():
                outcome = await reconciler.reconcile(*key)
        except FencedError as error:
            self._still(key, heard)
            _log.info("not done: %s", error)
            self.queue.add(key, 1.0)
        except (ApiError, UnreadableStatusError) as error:
            self._still(key, heard)
            if isinstance(error, TooLargeError) and reconciler is not self._large:
                self.queue.is_large(key)
                return
            self._metrics.failed(type(error).__name__)
            asked = min(_LONGEST_REST, getattr(error, "retry_after", None) or 0.0)
            _log.warning("tried again in %.1f s: %s", self.queue.retry(key, asked), error)
        except Exception:
            self._still(key, heard)
            self._metrics.failed("Bug")
            _log.exception("tried again in %.1f s: this is a bug", self.queue.retry(key))
        else:
            self._passed(key, outcome, heard)

    def _passed(self, key: Key, outcome: Outcome, heard: float | None) -> None:
        """What follows from a pass that came to an end."""
        if not outcome.exists:
            self._forget(key)
            return
        if outcome.run is not None:
            self._metrics.phase_of(key, outcome.run)
        if outcome.version is not None:
            self._own[key] = outcome.version
        if outcome.again:
            self._still(key, heard)
            self.queue.retry(key)
            return
        if self._metrics.began_stage(key) and heard is not None:
            self._metrics.next_job.observe(self.queue.clock() - heard)
        self.queue.succeeded(key)
        if outcome.requeue_after is not None:
            self.queue.add(key, outcome.requeue_after)

    def _forget(self, key: Key) -> None:
        self.queue.drop(key)
        if key not in self._meanwhile:  # else there is a new one of that name
            self.sightings.forget(key)
        self._metrics.phase_of(key, None)
        self._own.pop(key, None)
        self._heard.pop(key, None)

    def _still(self, key: Key, heard: float | None) -> None:
        """The pass did not come to an end, so its event is not answered yet."""
        if heard is not None:
            self._heard[key] = min(heard, self._heard.get(key, heard))

    async def _look_at_all(self) -> None:
        """The slow resync: catches what no event told, such as a wall clock that was set."""
        while True:
            await asyncio.sleep(self.pace.resync * random.uniform(0.9, 1.1))  # noqa: S311
            self.queue.look_again()
            for key in {*await self._listed(), *self.sightings.known()}:  # also those whose end no watch told of
                self.queue.add(key, random.uniform(0.0, min(30.0, self.pace.resync / 2)))  # noqa: S311

    async def _check_watches(self) -> None:
        """Compares what the API server lists with what the watches told; what they missed is worked on now."""
        while True:
            await asyncio.sleep(self.pace.check)
            before = self.sightings.snapshot()
            listed = await self._listed()
            await asyncio.sleep(min(10.0, self.pace.check / 2))
            missed = self.sightings.missed(before, listed)
            for key in missed:
                _log.warning("the watch missed a change of run %s/%s", *key)
                self.queue.add(key)

    async def _listed(self) -> dict[Key, str]:
        """Every run's resourceVersion; nothing where the server cannot be asked."""
        found: list[tuple[Key, str]] = []
        for namespace in self._namespaces:
            try:
                found += await self._client.list(RUNS, namespace, metadata_only=True, keep=_key, whole=EVERYTHING)
            except NotFoundError:
                _log.warning("the API server does not know %s; install the CRD", RUNS.plural)
                continue
            except ApiError as error:
                _log.warning("runs cannot be listed: %s", error)
                continue
        return dict(found)


def _key(run: Manifest) -> tuple[Key, str]:
    metadata = run["metadata"]
    return (metadata["namespace"], metadata["name"]), metadata["resourceVersion"]
