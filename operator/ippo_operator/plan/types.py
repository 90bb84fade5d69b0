"""What the planner sees and what it asks for."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ippo_trainer.contract.spec import Digest, StageResult, StageSpec

from ippo_operator.api.status import Reason, RunStatus


@dataclass(frozen=True)
class JobFailure:
    """How a job failed."""

    exit_code: int | None = None
    """Of the process that failed first; None where it is not known (process or pod lost)."""
    message: str = ""
    """What the stage said."""
    disrupted: bool = False
    """Lost or evicted through no fault of the stage."""


@dataclass(frozen=True)
class Waiting:
    """Why a job that is not over does not run yet."""

    reason: Reason
    message: str
    """Names the object that is waited for, and the remedy."""


@dataclass(frozen=True)
class ObservedJob:
    """A job of the run as it is now. Whoever observes is sure that it belongs to this run."""

    name: str
    input_digest: Digest
    """Of the spec that it was made from."""
    state: Literal["Refused", "Running", "Succeeded", "Failed"]
    """Running covers all that is not over, queued and starting too. Refused: not there, `waiting` says why."""
    results: tuple[StageResult, ...] = ()
    """Of its processes, as far as they could be read."""
    failure: JobFailure = JobFailure()
    """Where it failed."""
    waiting: Waiting | None = None
    """Set where it waits for quota, a node, an image or a Secret."""


@dataclass(frozen=True)
class JobIntent:
    """A job to create. Creating it twice is harmless: names are never used for anything else."""

    name: str
    spec: StageSpec
    shards: int | None
    """Processes with indices from 0; None for a stage that is not sharded."""


@dataclass(frozen=True)
class Event:
    """Something worth telling, once the status that says the same is written."""

    type: Literal["Normal", "Warning"]
    reason: Reason | Literal["StageStarted", "StageCompleted", "IterationStarted", "Resumed"]
    message: str


@dataclass(frozen=True)
class Plan:
    """Carry it out in this order: write the status, create, delete, emit events.

    If the status cannot be written, do nothing else and plan again.
    """

    status: RunStatus
    creates: tuple[JobIntent, ...] = ()
    deletes: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
    """Seconds until another pass is due even if nothing happens."""


@dataclass(frozen=True)
class World:
    """All that a pass may look at besides the run."""

    jobs: tuple[ObservedJob, ...]
    now: datetime

    def job(self, name: str) -> ObservedJob | None:
        """The job of that name."""
        return next((job for job in self.jobs if job.name == name), None)
