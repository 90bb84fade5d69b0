"""The files of a job of a local run: what its processes were given, what they wrote, and how they ended."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class JobFiles:
    """DIR/jobs/<name>. A stage that is not sharded has the shard None."""

    folder: Path

    @property
    def spec(self) -> Path:
        """The StageSpec."""
        return self.folder / "spec.json"

    @property
    def job(self) -> Path:
        """What the job is; written last, so a job without it was never made."""
        return self.folder / "job.json"

    @property
    def exit(self) -> Path:
        """How the job ended; it runs, or was lost, until there is one."""
        return self.folder / "exit.json"

    def log(self, shard: int | None) -> Path:
        """What the process of a shard printed."""
        return self.folder / f"log{_suffix(shard)}.txt"

    def termination(self, shard: int | None) -> Path:
        """The result or the error of a shard."""
        return self.folder / f"termination{_suffix(shard)}.json"

    def logs(self) -> list[Path]:
        """The logs that are there, in the order of the shards."""
        return sorted(self.folder.glob("log*.txt"), key=lambda path: (len(path.name), path.name))

    def terminations(self) -> list[Path]:
        """The results and errors that are there."""
        return sorted(self.folder.glob("termination*.json"))


def _suffix(shard: int | None) -> str:
    return "" if shard is None else f"-{shard}"
