"""How far the running stage is, read from the end of its log."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

_TAIL = 8192
_LINE = re.compile(r"INFO (?P<what>[^:]+): (?P<done>\d+)/(?P<total>\d+) (?P<rest>.*)")


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
    found = [progress for path in sorted(job.glob("log*.txt")) if (progress := _last(path)) is not None]
    if not found:
        return None
    alike = [progress for progress in found if progress.what == found[-1].what]
    done, total = sum(progress.done for progress in alike), sum(progress.total for progress in alike)
    return Progress(found[-1].what, done, total, found[-1].rest)


def _last(path: Path) -> Progress | None:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        lines = file.read().decode(errors="replace").splitlines()
    for line in reversed(lines):
        match = _LINE.search(line)
        if match:
            return Progress(match["what"], int(match["done"]), int(match["total"]), match["rest"])
    return None
