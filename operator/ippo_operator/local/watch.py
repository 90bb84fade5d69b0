"""How far the running stage is, read from the end of its log."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ippo_trainer.contract.lines import one_line

from ippo_operator.local.job_files import JobFiles

_TAIL = 8192
_LONGEST = 1024
"""Characters of a line; one about progress is much shorter."""
_LINE = re.compile(r"INFO (?P<what>[^:]+): (?P<done>[0-9]{1,15})/(?P<total>[0-9]{1,15}) (?P<rest>.*)")


@dataclass(frozen=True)
class Progress:
    """Units done of a total, over all shards that said so."""

    what: str
    done: int
    total: int
    rest: str
    """Unit, rate, time left and figures, of the shard that spoke last."""

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 0.0


def read_progress(job: Path) -> Progress | None:
    """The progress of the job in this folder; None before it says anything."""
    return joined(map(_tail, JobFiles(job).logs()))


def joined(logs: Iterable[Iterable[str]]) -> Progress | None:
    """The progress of a stage by the last lines of its shards' logs."""
    shards = [progress for lines in logs if (progress := _last(list(lines))) is not None]
    if not shards:
        return None
    alike = [progress for progress in shards if progress.what == shards[-1].what]
    done, total = sum(progress.done for progress in alike), sum(progress.total for progress in alike)
    return Progress(shards[-1].what, done, total, shards[-1].rest)


def _tail(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            return file.read().decode(errors="replace").splitlines()
    except OSError:  # how far a stage is helps along; what the status says does not depend on it
        return []


def _last(lines: list[str]) -> Progress | None:
    for line in reversed(lines):
        match = _LINE.search(line[:_LONGEST])
        if match:
            what, rest = one_line(match["what"]), one_line(match["rest"])
            return Progress(what, int(match["done"]), int(match["total"]), rest)
    return None
