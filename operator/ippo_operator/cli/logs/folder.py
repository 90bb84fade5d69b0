"""`ippo logs` of a run in a folder: the files that its stages write."""

import json
import re
import sys
import time
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from ippo_trainer.contract.lines import printable
from ippo_trainer.contract.stages import NAMES

from ippo_operator.api.status import LastFailure
from ippo_operator.cli.errors import FAILED, OK, TRY_AGAIN, CommandError
from ippo_operator.cli.folders import open_folder, read
from ippo_operator.cli.logs.attempts import Attempt, check, latest, note, select
from ippo_operator.local.folder import RunFolder
from ippo_operator.local.job_files import JobFiles

INTERVAL = 0.5
_JOB = re.compile(rf".*-i(?P<iteration>\d{{1,4}})-(?P<stage>{'|'.join(NAMES)})-a(?P<attempt>\d{{1,4}})-[0-9a-f]{{8}}")


def command(arguments: Namespace) -> int:
    """Prints the log."""
    check(arguments)
    if arguments.follow:
        return FolderFollower(RunFolder(Path(arguments.run)), arguments.shard, arguments.tail).follow()
    run = open_folder(arguments.run)
    jobs = _jobs(run.folder)
    attempt = select(run.view, jobs, arguments)
    log = _log(jobs.get(attempt), arguments.shard)
    if log is None:
        shard = "" if arguments.shard is None else f" of shard {arguments.shard}"
        raise CommandError(f"{attempt} has no log{shard} below {run.folder.jobs}", TRY_AGAIN)
    note(f"{attempt}, {log}")
    for line in _lines(log, arguments.tail):
        print(printable(line))
    return OK


class FolderFollower:
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
        self._complete: set[Attempt] = set()
        """Attempts that are over, and whose logs were printed to the end."""
        self._offsets: dict[Path, int] = {}
        """How far each log was printed, in bytes."""

    def follow(self) -> int:
        """Returns 0 once the run succeeded, 1 if it came to rest, or its runner ended, before."""
        first = latest(read(self._folder).view)
        while True:
            run = read(self._folder)  # before the logs: what a runner wrote last is printed
            for attempt, job in sorted(_jobs(self._folder).items()):
                is_due = attempt >= first and attempt not in self._complete
                if is_due and not self._print(attempt, job, run.runner_active):
                    break
            if not run.runner_active:
                note(f"{run.view.argument}: {run.view.message}")
                return OK if run.view.phase == "Succeeded" else FAILED
            self._sleep(INTERVAL)

    def _print(self, attempt: Attempt, job: Path, busy: bool) -> bool:
        """Prints what is new of an attempt's log; whether the attempt is over."""
        over = not busy or JobFiles(job).exit.exists()
        log = _log(job, self._shard)
        if log is not None and log not in self._offsets:
            note(f"{attempt}, {log}")
            self._offsets[log] = _beginning(log, self._tail)
            self._tail = None
        if log is not None:
            self._offsets[log] = _print_from(log, self._offsets[log], over)
        if over:
            self._complete.add(attempt)
        return over


def _jobs(folder: RunFolder) -> dict[Attempt, Path]:
    """The folders of the run's attempts."""
    jobs = {}
    for path in folder.jobs.iterdir() if folder.jobs.is_dir() else ():
        match = _JOB.fullmatch(path.name)
        if match is not None:
            jobs[Attempt.of(int(match["iteration"]), match["stage"], int(match["attempt"]))] = path
    return jobs


def _log(job: Path | None, shard: int | None) -> Path | None:
    """The log below the folder of an attempt: of the shard, by default of the first one."""
    if job is None:
        return None
    files = JobFiles(job)
    shards = {files.log(shard), *([files.log(None)] if shard == 0 else [])}
    return next((log for log in files.logs() if shard is None or log in shards), None)


def last_lines(folder: RunFolder, failure: LastFailure, count: int) -> list[str]:
    """Of the log of the attempt that failed, of the shard that failed first; nothing where it is gone."""
    job = folder.jobs / failure.job_name
    try:
        shard = json.loads(JobFiles(job).exit.read_bytes())["failedShard"]
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
