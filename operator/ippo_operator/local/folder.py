"""The folder of a local run: the run, its status, and the lock that keeps a second runner out."""

import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ippo_trainer.contract.spec import StoreLocation
from pydantic import BaseModel, ValidationError

from ippo_operator.api import changes
from ippo_operator.api.problems import ManifestError, Problem
from ippo_operator.api.resource import MAX_REQUESTED, IterativePPORun, RunSpec
from ippo_operator.api.run_sections import Promotion
from ippo_operator.api.status import RunStatus
from ippo_operator.local.files import write_json
from ippo_operator.plan import failures
from ippo_operator.plan.stage_specs import s3_location

_Read = TypeVar("_Read", bound=BaseModel)
_OURS = {
    "run.json",
    "status.json",
    "answer.json",
    "jobs",
    "artifacts",
    "work",
    "live",
    "runner.lock",
    ".run.json.new",
    ".status.json.new",
}


_ANSWERS = ("approve", "reject", "judgement")
"""Of spec.promotion."""


class FolderError(Exception):
    """The folder cannot be used; the message says why and what to do."""


class FolderInUseError(FolderError):
    """Another runner is at work in the folder."""


class RunFolder:
    """A local run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.jobs = path / "jobs"
        self.work = path / "work"
        self.live = path / "live"
        self.run_file = path / "run.json"
        self._status_file = path / "status.json"
        self._answer_file = path / "answer.json"
        self._lock_file = path / "runner.lock"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder for one runner. The lock dies with its holder, also on kill -9.

        Raises:
            FolderInUseError: another runner holds it.
            FolderError: the folder holds something else than a run.
        """
        self._check_ours()
        self.path.mkdir(parents=True, exist_ok=True)
        with self._lock_file.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                pid = file.read(32).strip() or "unknown"
                raise FolderInUseError(
                    f"another `ippo run` (process {pid}) is at work in {self.path}; wait for it, stop it, "
                    f"or give another --out"
                ) from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield

    @property
    def begun(self) -> bool:
        """Whether it holds a run."""
        return self.run_file.exists()

    def busy(self) -> bool:
        """Whether a runner is at work. Raises FolderError if that cannot be found out."""
        try:
            with self._lock_file.open("r") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        except OSError as error:
            raise FolderError(f"cannot read {self._lock_file}: {error.strerror}") from None
        return False

    def _check_ours(self) -> None:
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise FolderError(f"{self.path} is a file; give a folder with --out")
        foreign = sorted(entry.name for entry in self.path.iterdir() if entry.name not in _OURS)
        if foreign and not self.begun:
            raise FolderError(f"{self.path} is not empty and holds no run ({foreign[0]}, …); give another --out")

    def begin(self, manifest: IterativePPORun) -> IterativePPORun:
        """The run of this folder: a new one made of the manifest, or the one that was begun, with its changes.

        Raises:
            ManifestError: the manifest changes what is immutable.
        """
        run = self.read() if self.begun else None
        if run is None:
            metadata = manifest.metadata.model_copy(update={"uid": str(uuid.uuid4()), "generation": 1})
            return self._write(manifest.model_copy(update={"metadata": metadata}))
        if run.metadata.name != manifest.metadata.name:
            text = (
                f"given {manifest.metadata.name}, but {self.path} holds the run {run.metadata.name}; give another --out"
            )
            raise ManifestError([Problem("metadata.name", text)])
        problems = changes.problems(run.spec, manifest.spec)
        if problems:
            raise ManifestError(problems)
        return self.change(run, _with_answers(run.spec, _asking_again(run, manifest.spec)))

    def change(self, run: IterativePPORun, spec: RunSpec) -> IterativePPORun:
        """Gives the run another spec; the caller holds the lock and knows that the change is allowed."""
        if run.spec == spec:
            return run
        metadata = run.metadata.model_copy(update={"generation": run.metadata.generation + 1})
        return self._write(run.model_copy(update={"metadata": metadata, "spec": spec}))

    def leave_answer(self, promotion: dict[str, Any]) -> None:
        """Leaves fields of spec.promotion for the runner that is at work."""
        write_json(self._answer_file, Promotion(**promotion).model_dump(mode="json", by_alias=True, exclude_unset=True))

    def with_answer(self, run: IterativePPORun) -> IterativePPORun:
        """The run with the answer that was left for its runner; the caller holds the lock."""
        if not self._answer_file.exists():
            return run
        left = self._parse(self._answer_file, Promotion)
        changed = run.spec.promotion.model_copy(update={name: getattr(left, name) for name in left.model_fields_set})
        run = self.change(run, run.spec.model_copy(update={"promotion": changed}))
        self._answer_file.unlink()
        return run

    def _write(self, run: IterativePPORun) -> IterativePPORun:
        write_json(self.run_file, run.model_dump(mode="json", by_alias=True, exclude={"status"}, exclude_none=True))
        return run

    def read(self) -> IterativePPORun:
        """The run and its status. Raises FolderError if there is none, it was damaged, or it cannot be read."""
        if not self.begun:
            raise FolderError(f"{self.path} holds no run; start one with: ippo run -f RUN.yaml --out {self.path}")
        run = self._parse(self.run_file, IterativePPORun)
        if not self._status_file.exists():
            return run
        return run.model_copy(update={"status": self._parse(self._status_file, RunStatus)})

    def _parse(self, path: Path, model: type[_Read]) -> _Read:
        try:
            return model.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = "".join(f"{part}: " for part in (".".join(map(str, first["loc"])),) if part)
            raise FolderError(
                f"{path} was altered ({where}{first['msg']}); put it back as it was, or start again in another folder"
            ) from None
        except OSError as error:
            raise FolderError(f"cannot read {path}: {error.strerror}") from None

    def write_status(self, status: RunStatus) -> None:
        """Replaces the status."""
        write_json(self._status_file, json.loads(status.model_dump_json(by_alias=True, exclude_none=True)))

    def store(self, run: IterativePPORun) -> StoreLocation:
        """Where the run's artifacts are."""
        if run.spec.artifacts is not None:
            return StoreLocation(s3=s3_location(run, run.spec.artifacts.s3))
        return StoreLocation(directory=str((self.path / "artifacts").resolve()))


def _asking_again(run: IterativePPORun, spec: RunSpec) -> RunSpec:
    """The spec, with one more attempt asked for if a stage stalled: whoever starts the run again has mended the cause.

    In a cluster that takes a change of the spec, since nobody starts anything there.
    """
    requested = max(run.spec.retries.requested or 0, spec.retries.requested or 0)
    asked = _with_requested(spec, requested)
    if run.status is not None and failures.can_be_asked_again(run.status, asked):
        return _with_requested(spec, min(requested + 1, MAX_REQUESTED))
    return asked


def _with_answers(before: RunSpec, spec: RunSpec) -> RunSpec:
    """The spec, with what `ippo approve`, `reject` and `judge` wrote where the manifest is silent about it."""
    answers = {name: value for name in _ANSWERS if (value := getattr(before.promotion, name)) is not None}
    silent = all(getattr(spec.promotion, name) is None for name in _ANSWERS[:2])
    kept = {
        name: value
        for name, value in answers.items()
        if getattr(spec.promotion, name) is None and (silent or name not in _ANSWERS[:2])
    }
    return spec.model_copy(update={"promotion": spec.promotion.model_copy(update=kept)}) if kept else spec


def _with_requested(spec: RunSpec, requested: int) -> RunSpec:
    retries = spec.retries.model_copy(update={"requested": requested or None})
    return spec.model_copy(update={"retries": retries})
