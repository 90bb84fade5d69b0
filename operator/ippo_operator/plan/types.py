"""What the planner sees and what it asks for. Messages quote what others wrote; here they become one printable line."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ippo_trainer.contract.live import Canary, LiveReport
from ippo_trainer.contract.spec import Digest, StageResult, StageSpec

from ippo_operator.api.reasons import Reason
from ippo_operator.api.status import DeployedPolicy, RunStatus, ServedPolicy, Waiting, short


class _Told:
    """Has a message that quotes others."""

    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", short(self.message))


@dataclass(frozen=True)
class JobFailure(_Told):
    """How a job failed."""

    exit_code: int | None = None
    """Of the stage's process that failed first. None where something else ended it: its pod was lost or evicted, ran
    past a deadline, or another container of the pod failed."""
    message: str = ""
    """What the stage said, or else what ended it."""
    disrupted: bool = False
    """Lost through no fault of the stage: drained, preempted, a node that is gone. It counts against
    `retries.disruptions`."""


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
    outdated: bool = False
    """Made with other settings of pods, queue, service account or store than the spec has now."""
    waiting: Waiting | None = None
    """Set where it waits for quota, a node, an image or a Secret."""
    lingers: str = ""
    """Of a job that is over but for a container beside the stage's: which one. It has to be deleted."""
    pending_since: datetime | None = None
    """Since when a pod of it waits for a node or its image. The time in a queue does not count."""


@dataclass(frozen=True)
class ObservedServing:
    """The run's Deployment as it is now. Whoever observes is sure that it belongs to this run."""

    settings: Digest
    """Of the servers' pod template as the spec asks for it now, the policy apart."""
    blocked: Waiting | None = None
    """Why no Deployment can be made: its name is taken, or no image is known."""
    exists: bool = False
    """Whether the run has a Deployment or a Service."""
    as_asked: bool = False
    """Whether both are as the status asks for."""
    policy: Digest | None = None
    """Of the pod template of the Deployment; None where there is none."""
    template: Digest | None = None
    """The settings of that pod template."""
    fresh: bool = False
    """Whether the Deployment's status is about its newest spec."""
    unreached: Waiting | None = None
    """Why requests get to none of the servers, though some are available."""
    watched: float = 0.0
    """For how many seconds this process has seen the target's servers get no further, by a clock that never jumps."""
    replicas: int = 0
    """Servers wanted."""
    total: int = 0
    """Servers that are there, those of former pod templates too."""
    updated: int = 0
    """Servers of the newest pod template."""
    available: int = 0
    """Servers that take requests, of any pod template."""
    exceeded: bool = False
    """The Deployment controller says that its progress deadline passed, since what we apply changed last."""
    progressed_at: datetime | None = None
    """When it last saw a server get on, by its clock: to be compared with nothing but its other times."""
    restorable: frozenset[tuple[Digest, Digest]] = frozenset()
    """(policy, settings) of pod templates that are still known to the cluster."""
    trouble: Waiting | None = None
    """What keeps servers from getting ready."""


@dataclass(frozen=True)
class ObservedLive:
    """What is known of the run's gateway and of a candidate's servers now."""

    report: LiveReport | None = None
    """What the gateway says; None where it does not answer."""
    trouble: Waiting | None = None
    """Why there is no report, or why gateway or candidate cannot be made what they should be."""
    candidate_ready: bool = False
    """Whether a server of the candidate takes requests."""
    candidate_failed: str = ""
    """Why the candidate's servers will not get ready; empty while they may."""


@dataclass(frozen=True)
class CanaryIntent:
    """A candidate to be tested against the active policy."""

    policy: DeployedPolicy
    """Its iteration is the one that made it."""
    since: datetime | None
    """None: its servers are to be there, but the gateway is to send them nothing yet."""
    settings: Canary


@dataclass(frozen=True)
class LiveIntent:
    """What the gateway has to know, and whose servers there have to be besides the active policy's. Who carries it out
    knows the addresses."""

    active: DeployedPolicy
    canary: CanaryIntent | None = None


@dataclass(frozen=True)
class JobIntent:
    """A job to create. Creating it twice is harmless: names are never used for anything else."""

    name: str
    spec: StageSpec
    shards: int | None
    """Processes with indices from 0; None for a stage that is not sharded."""


@dataclass(frozen=True)
class Event(_Told):
    """Something worth telling, once the status that says the same is written."""

    type: Literal["Normal", "Warning"]
    reason: (
        Reason
        | Literal[
            "StageStarted",
            "StageCompleted",
            "StatusNotWritten",
            "TooLarge",
            "StageWarning",
            "FieldsWithoutEffect",
            "Resumed",
            "Restored",
            "RolledOut",
            "PutBack",
            "SidecarEnded",
            "EnoughConversations",
            "CanaryStarted",
        ]
    )
    message: str


@dataclass(frozen=True)
class Plan:
    """Carry it out in this order: write the status, create, delete, serve, emit events.

    If the status cannot be written, do nothing else and plan again.
    """

    status: RunStatus
    creates: tuple[JobIntent, ...] = ()
    deletes: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
    """Seconds until another pass is due even if nothing happens."""
    serve: ServedPolicy | None = None
    """What the Deployment and the Service have to be; nothing to do where they are."""
    unserve: bool = False
    """The Deployment and the Service have to go."""
    live: LiveIntent | None = None
    """The gateway that has to be there; None for a run that has none, or no policy yet."""


@dataclass(frozen=True)
class World:
    """All that a pass may look at besides the run."""

    jobs: tuple[ObservedJob, ...]
    now: datetime
    serving: ObservedServing | None = None
    """None where nothing is ever served, as on one machine."""
    live: ObservedLive | None = None
    """None for a run without collect.logged."""

    def job(self, name: str) -> ObservedJob | None:
        """The job of that name."""
        return next((job for job in self.jobs if job.name == name), None)
