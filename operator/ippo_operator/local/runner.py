"""The loop of `ippo run`: plan, write the status, start and stop processes, wait; until the run is at rest."""

import os
import signal
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import Protocol, Self

from ippo_operator.api.reasons import Reason
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.status import RunStatus
from ippo_operator.local.folder import RunFolder
from ippo_operator.local.jobs import LocalJobs
from ippo_operator.local.live.keeper import LiveProcesses
from ippo_operator.local.live.servers import Place
from ippo_operator.local.processes import Launcher, wait_for_any
from ippo_operator.plan.phase import Phase, phase
from ippo_operator.plan.planner import plan
from ippo_operator.plan.types import Event, ObservedJob, ObservedLive, Plan

GRACE = 60.0


class Observer(Protocol):
    """Who is told what happens."""

    def event(self, event: Event) -> None:
        """Something happened, and the status says so."""

    def tick(self, status: RunStatus, job: Path | None, live: ObservedLive | None) -> None:
        """Time passes while the job in this folder runs, or without any, while customers talk."""

    def listening(self, url: str) -> None:
        """The gateway of a run with live customers answers."""

    def stopping(self) -> None:
        """The runner was told to stop and waits for a checkpoint."""


class Signals:
    """Counts Ctrl-C and SIGTERM instead of raising in the middle of something; its socket wakes a wait."""

    def __init__(self) -> None:
        self.count = 0
        self.last = signal.SIGINT
        self._read, self._write = socket.socketpair()
        for end in (self._read, self._write):
            end.setblocking(False)

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        self._wakeup = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._read.close()
        self._write.close()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.count += 1
        self.last = signal.Signals(number)

    def fileno(self) -> int:
        """Readable when a signal came."""
        return self._read.fileno()

    def drain(self) -> None:
        """Forgets wake-ups, not counts."""
        try:
            while self._read.recv(64):
                pass
        except BlockingIOError:
            return


class Runner:
    """Drives one run to its end.

    Args:
        folder: locked by the caller.
        observer: is told what happens.
        signals: installed by the caller.
        launcher: starts processes.
        slots: most processes at once.
        clock: the time, with a zone.
        interval: seconds between two ticks of the observer.
    """

    def __init__(
        self,
        folder: RunFolder,
        observer: Observer,
        signals: Signals,
        launcher: Launcher | None = None,
        slots: int | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        interval: float = 1.0,
    ) -> None:
        self._folder = folder
        self._observer = observer
        self._signals = signals
        self._clock = clock
        self._interval = interval
        self._launcher = launcher or Launcher()
        self._jobs = LocalJobs(folder.jobs, folder.work, self._launcher, slots or _cores())
        self._live: LiveProcesses | None = None
        """Of a run with collect.logged."""
        self._listens = False
        """Whether the observer knows that the gateway answers."""

    def run(self, manifest: IterativePPORun, keys: Path | None = None) -> Phase | None:
        """Begins or resumes the run and returns where it came to rest; None if it was told to stop.

        Args:
            manifest: what the run should be.
            keys: of its gateway.

        Raises:
            ManifestError: the manifest changes what is immutable.
            FolderError: the folder is damaged.
            OSError: the folder cannot be written.
            PortTakenError: the gateway cannot listen.
        """
        run = self._folder.begin(manifest)
        if run.spec.collect.logged is not None:
            place = Place(self._folder.live, self._folder.store(run), run, self._launcher, keys)
            self._live = LiveProcesses(place)
            self._live.check_port()
        try:
            while not self._signals.count:
                run, new_plan = self._pass(run)
                stands = phase(run.spec, new_plan.status, self._clock())
                if stands.at_rest and not self._serves_on(stands):
                    return stands
                if not new_plan.deletes:
                    self._wait(new_plan)
            self._observer.stopping()
            self._jobs.stop_all(GRACE, hurry=lambda: self._signals.count > 1)
            return None
        finally:
            self._jobs.stop_all(0.0)
            if self._live is not None:
                self._live.end(GRACE, hurry=lambda: self._signals.count > 1)

    def _serves_on(self, stands: Phase) -> bool:
        """Customers are served on while a human is asked; the answer comes by `ippo approve` or `reject`."""
        return self._live is not None and stands.reason == Reason.AWAITING_APPROVAL

    def _pass(self, run: IterativePPORun) -> tuple[IterativePPORun, Plan]:
        run = self._folder.with_answer(run)
        live = self._live.observe() if self._live is not None else None
        if self._live is not None and live is not None and live.report is not None and not self._listens:
            self._listens = True
            self._observer.listening(self._live.url)
        new_plan = plan(run, self._observe(run), self._clock(), self._folder.store(run), live_world=live)
        if new_plan.status != run.status:
            self._folder.write_status(new_plan.status)
        for intent in new_plan.creates:
            self._jobs.create(intent)
        for name in new_plan.deletes:
            self._jobs.stop(name, GRACE, hurry=lambda: self._signals.count > 1)
        if self._live is not None:
            self._live.carry_out(new_plan.live)
        for event in new_plan.events:
            self._observer.event(event)
        return run.model_copy(update={"status": new_plan.status}), new_plan

    def _observe(self, run: IterativePPORun) -> tuple[ObservedJob, ...]:
        """The active attempt's job; no other one can change what is next."""
        active = run.status.active if run.status is not None else None
        job = self._jobs.observe(active.job_name) if active is not None else None
        return () if job is None else (job,)

    def _wait(self, new_plan: Plan) -> None:
        """Until a process ended, a signal came, or a repetition is due; the observer is told that time passes."""
        processes = self._jobs.running()
        active = new_plan.status.active
        job = self._folder.jobs / active.job_name if active is not None else None
        until = None if new_plan.requeue_after is None else time.monotonic() + new_plan.requeue_after
        if self._live is not None and job is None:
            until = time.monotonic() + self._interval  # to ask a gateway of this machine costs nothing
        while not self._signals.count and (processes or until is not None):
            seconds = self._interval if until is None else until - time.monotonic()
            if seconds <= 0:
                return
            wait_for_any(processes, [self._signals.fileno()], min(self._interval, seconds))
            self._signals.drain()
            if any(not process.is_alive() for process in processes):
                return
            if self._live is not None:
                self._live.keep()
            if job is not None or self._live is not None:
                self._observer.tick(new_plan.status, job, self._live.observed if self._live is not None else None)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
