"""Local jobs: the processes of one attempt and the files that tell what became of them."""

import json
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ippo_trainer.contract.errors import STOPPED
from ippo_trainer.contract.spec import MAX_RESULT_BYTES, StageResult
from pydantic import ValidationError

from ippo_operator.api.status import to_rfc3339
from ippo_operator.local.files import last_line, read_bytes, write_atomically, write_json
from ippo_operator.local.job_files import JobFiles
from ippo_operator.local.processes import Launcher, exit_code, wait_for_any
from ippo_operator.plan.types import JobFailure, JobIntent, ObservedJob


@dataclass
class _Live:
    """A job whose processes are ours."""

    files: JobFiles
    waiting: deque[int | None]
    running: dict[int | None, BaseProcess] = field(default_factory=dict)
    codes: dict[int | None, int] = field(default_factory=dict)
    first_failure: int | None = None
    """The exit code of the process that failed first: the others' only say that they were stopped for it."""
    failed_shard: int | None = None


class LocalJobs:
    """Creates, observes and stops jobs.

    Args:
        folder: holds one folder per job.
        work: parent of the stages' working directories.
        launcher: starts processes.
        slots: most processes at once; the rest of a job's shards wait.
    """

    def __init__(self, folder: Path, work: Path, launcher: Launcher, slots: int) -> None:
        self._folder = folder
        self._work = work
        self._launcher = launcher
        self._slots = slots
        self._live: dict[str, _Live] = {}

    def create(self, intent: JobIntent) -> None:
        """Writes the job's files, then starts its processes. A job that exists is left alone."""
        files = JobFiles(self._folder / intent.name)
        if files.job.exists():
            return
        files.folder.mkdir(parents=True, exist_ok=True)
        spec = intent.spec.model_dump_json(by_alias=True, exclude_none=True, indent=2)
        write_atomically(files.spec, spec.encode())
        about = {"name": intent.name, "inputDigest": intent.spec.input_digest(), "shards": intent.shards}
        write_json(files.job, about | {"createdAt": to_rfc3339(datetime.now(UTC))})
        shards: list[int | None] = [None] if intent.shards is None else list(range(intent.shards))
        self._live[intent.name] = _Live(files, deque(shards))
        self._start_waiting(self._live[intent.name])

    def _start_waiting(self, job: _Live) -> None:
        while job.waiting and len(job.running) < self._slots and job.first_failure is None:
            shard = job.waiting.popleft()
            log, termination = job.files.log(shard), job.files.termination(shard)
            job.running[shard] = self._launcher.start(job.files.spec, shard, log, termination, self._work)

    def running(self) -> list[BaseProcess]:
        """Our processes that run."""
        return [process for job in self._live.values() for process in job.running.values()]

    def observe(self, name: str) -> ObservedJob | None:
        """The job as it is now; None if it was never created."""
        if name in self._live:
            self._reap(name, self._live[name])
        files = JobFiles(self._folder / name)
        about = _read_json(files.job)
        if about is None:
            return None
        digest = about["inputDigest"]
        ended = _read_json(files.exit)
        if ended is None and name in self._live:
            return ObservedJob(name, digest, "Running")
        if ended is None:
            lost = JobFailure(message="the runner ended before this job did", disrupted=True)
            return ObservedJob(name, digest, "Failed", failure=lost)
        if ended["exitCode"] == 0:
            return ObservedJob(name, digest, "Succeeded", _results(files))
        return ObservedJob(name, digest, "Failed", failure=_failure(files, ended))

    def _reap(self, name: str, job: _Live) -> None:
        """Takes note of processes that ended. One that failed takes the job's others with it."""
        for shard, process in list(job.running.items()):
            if process.is_alive():
                continue
            process.join()
            job.codes[shard] = exit_code(process)
            del job.running[shard]
            if job.codes[shard] != 0 and job.first_failure is None:
                job.first_failure, job.failed_shard = job.codes[shard], shard
                _signal(job, signal.SIGTERM)
        self._start_waiting(job)
        if not job.running and (job.first_failure is not None or not job.waiting):
            codes = {str(shard): code for shard, code in job.codes.items() if shard is not None}
            ended: dict[str, Any] = {"exitCode": job.first_failure or 0, "failedShard": job.failed_shard}
            if codes:
                ended["shards"] = codes
            write_json(job.files.exit, ended | {"finishedAt": to_rfc3339(datetime.now(UTC))})
            del self._live[name]

    def stop(self, name: str, grace: float, hurry: Callable[[], bool] = lambda: False) -> None:
        """Tells the job's processes to save a checkpoint and end, waits, and kills what is left.

        Args:
            name: the job; one that does not run is left alone.
            grace: seconds to wait.
            hurry: whether to kill at once; asked about ten times a second.
        """
        job = self._live.get(name)
        if job is None:
            return
        if job.waiting:
            job.first_failure = STOPPED  # some shards never started, so the job is not done however the others end
        job.waiting.clear()
        _signal(job, signal.SIGTERM)
        deadline = time.monotonic() + grace
        while name in self._live:
            seconds = deadline - time.monotonic()
            if seconds <= 0 or hurry():
                _signal(job, signal.SIGKILL)
            wait_for_any(list(job.running.values()), (), min(0.1, max(0.0, seconds)) or 0.1)
            self._reap(name, job)

    def stop_all(self, grace: float, hurry: Callable[[], bool] = lambda: False) -> None:
        """Stops every job of ours."""
        for name in list(self._live):
            self.stop(name, grace, hurry)


def _signal(job: _Live, number: signal.Signals) -> None:
    for process in job.running.values():
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, number)


def _read_json(path: Path) -> dict[str, Any] | None:
    body = read_bytes(path, 1 << 20)
    return None if body is None else json.loads(body)


def _results(files: JobFiles) -> tuple[StageResult, ...]:
    """What the job's processes wrote; files that are no result are left out, and the planner misses them."""
    results = []
    for path in files.terminations():
        body = read_bytes(path, MAX_RESULT_BYTES)
        try:
            results.append(StageResult.model_validate_json(body or b""))
        except ValidationError:
            continue
    return tuple(results)


def _failure(files: JobFiles, ended: dict[str, Any]) -> JobFailure:
    code, shard = ended["exitCode"], ended["failedShard"]
    body = read_bytes(files.termination(shard), 1 << 16)
    try:
        message = str(json.loads(body or b"")["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        message = _without_message(files.log(shard), code)
    return JobFailure(code, message)


def _without_message(log: Path, code: int) -> str:
    """What can be said about a process that left no message: its signal, or the end of its log."""
    if code > 128:
        try:
            name = signal.Signals(code - 128).name
        except ValueError:
            name = f"signal {code - 128}"
        cause = "; the machine may be out of memory" if name == "SIGKILL" else ""
        return f"ended by {name}{cause}, see {log}"
    said = last_line(log)
    return f"exit code {code}: {said}" if said else f"exit code {code}, see {log}"
