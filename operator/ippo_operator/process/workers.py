"""What goes on in the operator's process beside the watches: lease, workers, resync."""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from ippo_operator.cluster import clock, log_context
from ippo_operator.cluster.client import Client, Manifest
from ippo_operator.cluster.errors import ApiError, FencedError, NotFoundError, TooLargeError
from ippo_operator.cluster.lease import Lease
from ippo_operator.cluster.observe.snapshot import UnreadableStatusError
from ippo_operator.cluster.reconcile import PassOutcome, Reconciler
from ippo_operator.cluster.resources import RUNS, Key
from ippo_operator.cluster.transport import EVERYTHING
from ippo_operator.process.metrics import Metrics
from ippo_operator.process.queue import KeyedQueue
from ippo_operator.process.run_index import RunIndex

_AHEAD = 30.0
"""Seconds. What a run goes on because of comes before all that became due so long ago, but starves nothing."""
_LONGEST_REST = 120.0
"""Seconds. A server may ask for so long a rest before it is asked about a run again."""
_log = logging.getLogger("ippo.operator")


@dataclass(frozen=True)
class WorkPace:
    """How much at once, and how often."""

    workers: int = 16
    """Passes at the same time."""
    resync: float = 300.0
    """Seconds between two looks at everything."""
    check: float = 60.0
    """Seconds between two checks that the watches miss nothing."""
    drain: float = 20.0
    """Seconds that passes have to end when the process is told to stop."""


class Workers:
    """Works on runs while this process holds the lease.

    Args:
        client: for listings; reads only.
        reconciler: does a pass; raises TooLargeError where that takes more memory than many may have at once.
        lease: who may act.
        metrics: are told.
        namespaces: to look at; none for all.
        pace: how much at once, and how often.
        large: does those passes, one at a time.
        renew_watches: has the watches begin anew.
    """

    def __init__(
        self,
        client: Client,
        reconciler: Reconciler,
        lease: Lease,
        metrics: Metrics,
        namespaces: Sequence[str] = (),
        pace: WorkPace | None = None,
        large: Reconciler | None = None,
        renew_watches: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._reconciler = reconciler
        self.lease = lease
        self._metrics = metrics
        self._namespaces: list[str | None] = list(namespaces) or [None]
        self.pace = pace or WorkPace()
        self._large = large or reconciler
        self._renew_watches = renew_watches
        self.queue: KeyedQueue[Key] = KeyedQueue()
        self.index = RunIndex()
        self.unlisted: str | None = None
        """Why runs could not be listed; None where they could."""
        self._leading = asyncio.Event()
        self._room = asyncio.Semaphore(self.pace.workers)
        self._room_for_large = asyncio.Lock()
        self._heard: dict[Key, float] = {}
        self._own: dict[Key, str] = {}
        self._meanwhile: dict[Key, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start(self) -> None:
        """Starts working."""
        for loop in (self._hold_lease(), self._look_at_all(), self._check_watches(), self._work()):
            self._start(loop).add_done_callback(self._ended)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

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
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.lease.release()

    # What the watches tell

    def run_changed(self, key: Key, version: str) -> None:
        """See Listener. That a pass wrote the status is no reason for another one: it left nothing undone."""
        if not self.index.put(key, version) or version == self._own.get(key):
            return
        if self.queue.busy(key):
            self._meanwhile[key] = version  # most likely the pass's own write; known once it ends
            return
        self._hear(key)
        self.queue.add(key)

    def run_deleted(self, key: Key) -> None:
        """See Listener."""
        self.index.event()
        self.index.remove(key)
        self.queue.add(key)

    def child_changed(self, key: Key, delay: float) -> None:
        """See Listener. Anybody can label an object as some run's; of runs that are not there it is nobody's."""
        self.index.event()
        if key in self.index:
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
                for key in self.index.versions():
                    self.queue.add(key)
                self._leading.set()
            elif not held:
                self._leading.clear()
                self._metrics.forget_runs()
            await asyncio.sleep(self.lease.times.renew_every)

    async def _work(self) -> None:
        while True:
            await self._leading.wait()
            await self._room.acquire()
            self._start(self._pass(await self.queue.take()))

    async def _pass(self, key: Key) -> None:
        log_context.bind(namespace=key[0], run=key[1])
        try:
            await self._answer(key, self._heard.pop(key, None))
        finally:
            self.queue.done(key)
            version = self._meanwhile.pop(key, None)
            if version is not None and version != self._own.get(key):
                self._hear(key)
                self.queue.add(key)

    async def _answer(self, key: Key, heard: float | None) -> None:
        try:
            outcome = await self._reconcile(key)
        except FencedError as error:
            self._still(key, heard)
            _log.info("not done: %s", error)
            self.queue.add(key, 1.0)
        except (ApiError, UnreadableStatusError) as error:
            self._still(key, heard)
            self._metrics.failed(type(error).__name__)
            rest = min(_LONGEST_REST, getattr(error, "retry_after", None) or 0.0)
            _log.warning("tried again in %.1f s: %s", self.queue.retry(key, rest), error)
        except Exception:
            self._still(key, heard)
            self._metrics.failed("Bug")
            _log.exception("tried again in %.1f s: this is a bug", self.queue.retry(key))
        else:
            self._passed(key, outcome, heard)

    async def _reconcile(self, key: Key) -> PassOutcome:
        """A pass over a run of a megabyte takes many times that. There is room for one such pass at a time, and whoever
        makes hundreds of such runs must not hold up the others: they wait for each other, and nobody for them."""
        try:
            with self._metrics.reconcile.time():
                return await self._reconciler.reconcile(*key)
        except TooLargeError:
            if self._large is self._reconciler:
                raise
        finally:
            self._room.release()
        self.queue.waits(key)
        async with self._room_for_large:
            self.queue.begins(key)
            with self._metrics.reconcile.time():
                return await self._large.reconcile(*key)

    def _passed(self, key: Key, outcome: PassOutcome, heard: float | None) -> None:
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
            self.index.remove(key)
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
            for key in {*await self._listed(), *self.index.versions()}:  # also those whose end no watch told of
                self.queue.add(key, random.uniform(0.0, min(30.0, self.pace.resync / 2)))  # noqa: S311

    async def _check_watches(self) -> None:
        """Compares what the API server lists with what the watches told; what they missed is worked on now."""
        while True:
            before, unlisted = self.index.versions(), self.unlisted
            listed = await self._listed()
            await asyncio.sleep(min(10.0, self.pace.check / 2))
            missed = self.index.missed(before, listed)
            for key in missed:
                _log.warning("the watch missed a change of run %s/%s", *key)
                self.queue.add(key)
            if missed or (unlisted is not None and self.unlisted is None):  # such as a CRD that came back
                self._renew_watches()
            await asyncio.sleep(self.pace.check)

    async def _listed(self) -> dict[Key, str]:
        """Every run's resourceVersion; nothing of namespaces that the server cannot be asked about."""
        listed: list[tuple[Key, str]] = []
        problem = None
        for namespace in self._namespaces:
            try:
                listed += await self._client.list(RUNS, namespace, metadata_only=True, keep=_key, whole=EVERYTHING)
            except NotFoundError:
                problem = f"the API server does not know {RUNS.plural}; install the CRD"
            except ApiError as error:
                problem = f"{RUNS.plural} cannot be listed: {error}"
        if problem is not None:
            _log.warning("%s", problem)
        self.unlisted = problem
        return dict(listed)


def _key(run: Manifest) -> tuple[Key, str]:
    metadata = run["metadata"]
    return (metadata["namespace"], metadata["name"]), metadata["resourceVersion"]
