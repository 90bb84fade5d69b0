"""`ippo logs` of a run in a folder: the files that its stages write."""

import json
import re
import sys
import time
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from ippo_trainer.contract.lines import printable
from ippo_trainer.contract.stages import NAMES

from ippo_operator.api.status import LastFailure, RunStatus
from ippo_operator.cli.attempts import Attempt, check, latest, wanted
from ippo_operator.cli.errors import FAILED, OK, TRY_AGAIN, CommandError
from ippo_operator.local.folder import FolderError, RunFolder
from ippo_operator.plan.phase import phase

INTERVAL = 0.5
_JOB = re.compile(rf".*-i(?P<iteration>\d{{1,4}})-(?P<stage>{'|'.join(NAMES)})-a(?P<attempt>\d{{1,4}})-[0-9a-f]{{8}}")


def command(arguments: Namespace) -> int:
    """Prints the log."""
    check(arguments)
    folder = RunFolder(Path(arguments.run))
    try:
        if arguments.follow:
            return Follower(folder, arguments.shard, arguments.tail).follow()
        status, message = _where(folder)
        jobs = _jobs(folder)
        attempt = wanted(status, jobs, arguments, message)
        log = _log(jobs.get(attempt), arguments.shard)
        if log is None:
            shard = "" if arguments.shard is None else f" of shard {arguments.shard}"
            raise CommandError(f"{attempt} has no log{shard} below {folder.jobs}", TRY_AGAIN)
        _say(f"{attempt}, {log}")
        for line in _lines(log, arguments.tail):
            print(printable(line))
    except FolderError as error:
        raise CommandError(str(error)) from None
    return OK


class Follower:
    """Prints the log of one stage after the other, as long as a runner is at work.

    Args:
        folder: of the run.
        shard: of stages with several processes.
        tail: lines of the first log to begin with; None for all.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        folder: RunFolder,
        shard: int | None = None,
        tail: int | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._folder, self._shard, self._tail = folder, shard, tail
        self._sleep = sleep
        self._over: set[Attempt] = set()
        self._places: dict[Path, int] = {}
        """How far each log was printed, in bytes."""

    def follow(self) -> int:
        """Returns 0 once the run succeeded, 1 if it came to rest, or its runner ended, before."""
        status, message = _where(self._folder)
        first = latest(status, str(self._folder.path), message)
        while True:
            busy = self._folder.busy()  # asked before the logs are read: what a runner wrote last is printed
            for attempt, job in sorted(_jobs(self._folder).items()):
                if attempt >= first and attempt not in self._over and not self._print(attempt, job, busy):
                    break
            if not busy:
                _, message = _where(self._folder)
                _say(f"{self._folder.path}: {message}")
                return OK if _succeeded(self._folder) else FAILED
            self._sleep(INTERVAL)

    def _print(self, attempt: Attempt, job: Path, busy: bool) -> bool:
        """Prints what is new of an attempt's log; whether the attempt is over."""
        over = not busy or (job / "exit.json").exists()
        log = _log(job, self._shard)
        if log is not None and log not in self._places:
            _say(f"{attempt}, {log}")
            self._places[log] = _beginning(log, self._tail)
            self._tail = None
        if log is not None:
            self._places[log] = _print_from(log, self._places[log], over)
        if over:
            self._over.add(attempt)
        return over


def _where(folder: RunFolder) -> tuple[RunStatus, str]:
    """The status, and why the run is where it is."""
    run = folder.read()
    status = run.status or RunStatus()
    return status, phase(run.spec, status, datetime.now(UTC)).message


def _succeeded(folder: RunFolder) -> bool:
    run = folder.read()
    return phase(run.spec, run.status or RunStatus(), datetime.now(UTC)).name == "Succeeded"


def _jobs(folder: RunFolder) -> dict[Attempt, Path]:
    """The folders of the run's attempts."""
    jobs = {}
    for path in folder.jobs.iterdir() if folder.jobs.is_dir() else ():
        match = _JOB.fullmatch(path.name)
        if match is not None:
            place = NAMES.index(match["stage"])
            jobs[Attempt(int(match["iteration"]), place, int(match["attempt"]))] = path
    return jobs


def _log(job: Path | None, shard: int | None) -> Path | None:
    """The log below the folder of an attempt: of the shard, by default of the first one."""
    logs = sorted(job.glob("log*.txt"), key=lambda path: (len(path.name), path.name)) if job is not None else []
    names = {f"log-{shard}.txt", *(["log.txt"] if shard == 0 else [])}
    return next((log for log in logs if shard is None or log.name in names), None)


def last_lines(folder: RunFolder, failure: LastFailure, count: int) -> list[str]:
    """Of the log of the attempt that failed, of the shard that failed first; nothing where it is gone."""
    job = folder.jobs / failure.job_name
    try:
        shard = json.loads((job / "exit.json").read_bytes())["failedShard"]
        log = _log(job, shard)
        return list(_lines(log, count)) if log is not None else []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def _lines(log: Path, count: int | None) -> Iterator[str]:
    """The last `count` lines, by default all."""
    with log.open(errors="replace") as file:
        yield from (line.rstrip("\n") for line in (file if count is None else deque(file, count)))


def _beginning(log: Path, count: int | None) -> int:
    """Where the last `count` lines begin, in bytes; by default the beginning."""
    if count is None:
        return 0
    with log.open("rb") as file:
        sizes = [len(line) for line in file]
    return sum(sizes[: len(sizes) - count]) if count < len(sizes) else 0


def _print_from(log: Path, start: int, ended: bool) -> int:
    """Prints whole lines from there on, the last one too once its stage has ended; returns where to go on."""
    with log.open("rb") as file:
        file.seek(start)
        for line in file:
            if not (ended or line.endswith(b"\n")):
                break
            start += len(line)
            print(printable(line.decode(errors="replace").rstrip("\n")))
    sys.stdout.flush()
    return start


def _say(text: str) -> None:
    """On standard error: standard output is the log alone."""
    print(f"--- {text}", file=sys.stderr, flush=True)
