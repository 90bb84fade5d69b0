"""The status of a run: all that the planner remembers between two passes, bounded to 64 KB."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from ippo_trainer.contract.fields import Share
from ippo_trainer.contract.lines import Line, one_line
from ippo_trainer.contract.params import GateMetric, Model
from ippo_trainer.contract.spec import MAX_METRICS, ArtifactRef, Decision, Digest, Outcome
from ippo_trainer.contract.stages import CYCLE, StageName
from pydantic import AliasChoices, BeforeValidator, Field, PlainSerializer

from ippo_operator.api.reasons import ConditionType, Reason

MAX_MESSAGE = 1024
"""Bytes of UTF-8, as events count them."""
MAX_HISTORY = 20
MAX_ITERATION_WARNINGS = 8

Truth = Literal["True", "False", "Unknown"]
FailureKind = Literal["Spec", "Data", "TryAgain", "Crash", "Disruption", "Uninformative", "Conflict"]


FORMER_NAME = "x-ippo-former-name"
FORMER_RELEASE = "0.2"
"""The last one that wrote the former names."""


def formerly(name: str, former: str) -> Any:
    """A field with another JSON name up to FORMER_RELEASE: it is read by either name and written by the new one."""
    return Field(
        validation_alias=AliasChoices(name, former),
        serialization_alias=name,
        json_schema_extra={FORMER_NAME: former},
    )


def to_rfc3339(moment: datetime) -> str:
    """`2026-01-31T12:00:00Z`, as metav1.Time writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Time = Annotated[datetime, Field(strict=False), PlainSerializer(to_rfc3339, return_type=str, when_used="json")]


def short(text: str) -> str:
    """A message as a status or an event may hold it: one printable line of at most MAX_MESSAGE bytes."""
    return one_line(text, MAX_MESSAGE)


def _message(value: object) -> object:
    return short(value) if isinstance(value, str) else value


Message = Annotated[str, BeforeValidator(_message), Field(max_length=MAX_MESSAGE)]
Metrics = Annotated[dict[Annotated[Line, Field(max_length=63)], float], Field(max_length=MAX_METRICS)]


class Waiting(Model):
    """Why something that should be at work is not."""

    reason: Reason
    message: Message = ""
    """Names the object that is waited for, and the remedy."""


class Condition(Model):
    """metav1.Condition."""

    type: ConditionType
    status: Truth
    reason: Reason
    message: Message = ""
    observed_generation: int
    last_transition_time: Time


class ActiveAttempt(Model):
    """The intent: written before the job is created, so that a lost job is never a job that was never made."""

    job_name: Annotated[Line, Field(max_length=63)]
    input_digest: Digest
    created_at: Time
    retry_digest: Digest | None = None
    """Of spec.pods, the store's address and spec.retries.requested: a failure is final until one of them changes."""
    observed: Annotated[bool, formerly("observed", "seen")] = False
    """The job was observed; if it is missing from now on, it is lost."""
    stopping: bool = False
    """Its Job is deleted, and how it ends costs no budget: for a suspension, or because it waited for what the spec no
    longer asks for."""
    waiting: Annotated[Waiting | None, formerly("waiting", "waits")] = None
    """What keeps it from running, if anything does."""
    overdue: Message | None = None
    """Deleted because its pods waited for too long; counted as a failure once it is gone."""


class StageStatus(Model):
    """A completed stage."""

    stage: StageName
    attempts: int
    started_at: Time
    finished_at: Time
    artifact: ArtifactRef


class ArmCounts(Model):
    """Conversations of one side of an A/B test that count."""

    conversations: int = 0
    """With a known outcome."""
    outcomes: int = 0
    """Of them with the outcome."""


class CanaryStatus(Model):
    """An A/B test of an iteration's candidate against the policy before it."""

    asked_at: Time
    """When the candidate's servers were asked for."""
    started_at: Time | None = None
    """When they were ready: conversations that began later count. None while they are waited for."""
    finished_at: Time | None = None
    """When it was decided, by the test or by a human. From then on the candidate gets no conversations as such."""
    share: Share | None = None
    """Of conversations that the candidate gets. Where it changes, the test starts anew."""
    counted_at: Time | None = None
    """When the gateway was last asked and said something new."""
    candidate: ArmCounts = ArmCounts()
    control: ArmCounts = ArmCounts()
    """Of the policy before it, since the test started."""
    lift: float = 0.0
    """Outcomes per conversation, candidate less control."""
    low: float = -1.0
    high: float = 1.0
    """Bounds of the lift that hold at every look."""
    outcome: Outcome | None = None
    """Of the test. None while it goes on, and where a human ended it."""
    reason: Message = ""
    """Why it ended."""


class IterationStatus(Model):
    """One round of the loop; iteration 0 is the warm start."""

    iteration: int
    stages: Annotated[tuple[StageStatus, ...], Field(max_length=len(CYCLE))] = ()
    collections: int | None = None
    """How often it collected, where that is more than once."""
    metrics: Metrics = {}
    """Of its evaluation. Names that end in Current are of the policy before it."""
    warnings: Annotated[tuple[Message, ...], Field(max_length=MAX_ITERATION_WARNINGS)] = ()
    """What its stages found worth a warning, though their results stand."""
    decision: Decision | None = None
    """The gate's answer in words."""
    canary: CanaryStatus | None = None
    """The A/B test of its candidate, where spec.serve.strategy is Canary."""
    promoted: bool | None = None
    """Whether the candidate became the current policy."""
    policy: Digest | None = None
    """The policy deployed after this iteration."""
    started_at: Time
    finished_at: Time | None = None

    def artifact(self, stage: StageName) -> ArtifactRef | None:
        """What a completed stage published."""
        return next((done.artifact for done in self.stages if done.stage == stage), None)


class DeployedPolicy(Model):
    """The policy that collects."""

    iteration: int
    """The iteration that made it."""
    artifact: ArtifactRef


class BestPolicy(Model):
    """The promoted policy with the highest measured gate metric; measured anew by each iteration it is current in."""

    iteration: int
    artifact: ArtifactRef
    metric: GateMetric
    estimate: float


class LastFailure(Model):
    """The latest failure; it stays when a later attempt succeeds."""

    iteration: int
    stage: StageName
    attempt: int
    job_name: Annotated[Line, Field(max_length=63)]
    kind: FailureKind
    reason: Reason
    exit_code: int | None = None
    message: Message = ""
    time: Time
    retry_digest: Digest | None = None
    """The attempt's. None: of an operator that did not know it."""


class Budgets(Model):
    """Failures of the current stage so far, by the budget that they spend."""

    try_again: int = 0
    crashes: int = 0
    disruptions: int = 0


class ServedPolicy(Model):
    """A policy and how its servers are set up."""

    iteration: int
    """The iteration that made it."""
    digest: Digest
    key: Annotated[Line, Field(max_length=900)]
    settings: Digest
    """Of all else in the servers' pod template."""

    def same(self, other: "ServedPolicy | None") -> bool:
        """Whether these are the same servers."""
        return other is not None and (self.digest, self.settings) == (other.digest, other.settings)


class FailedRollout(ServedPolicy):
    """Servers that did not get ready in time; the same ones are tried again once what `retry_digest` is of changes."""

    reason: Reason
    message: Message = ""
    time: Time
    retry_digest: Digest | None = None
    """Of spec.serve and retries.requested, as they were. None: of an operator that did not know it."""


class ServingStatus(Model):
    """What is served, and how far a roll-out is."""

    active: ServedPolicy | None = None
    """The last policy whose servers got ready; a roll-out that fails goes back to it."""
    target: ServedPolicy | None = None
    """What the Deployment is asked to serve."""
    waiting_since: Annotated[Time | None, formerly("waitingSince", "since")] = None
    """Since when the target's servers are waited for; none while they are ready."""
    stale_progress_time: Time | None = None
    """When the servers before the target last got on, if the Deployment controller had given up on them: what it says
    of that time is not about the target."""
    waiting: Annotated[Waiting | None, formerly("waiting", "waits")] = None
    """What keeps them from getting ready, as far as it is known."""
    blocked: Waiting | None = None
    """Why the Deployment cannot be made what it should be."""
    failed: FailedRollout | None = None
    """The latest policy could not be rolled out; none once it is, or once another one is tried."""


class LiveStatus(Model):
    """Of the gateway, and what an iteration waits for before it collects what that logged."""

    policy: Digest
    """Whose conversations are waited for."""
    conversations: int = 0
    """With a known outcome."""
    outcomes: int = 0
    """Of them with the outcome."""
    wanted_conversations: int = 0
    wanted_outcomes: int = 0
    earlier_conversations: int = 0
    earlier_outcomes: int = 0
    """Of both, what was there when conversations of this policy were collected before."""
    counted_at: Time | None = None
    """When the gateway was last asked and said something new."""
    until: int | None = None
    """Seconds since 1970 UTC: there was enough, and collect takes what happened before. None while it waits."""
    trouble: Waiting | None = None
    """Why the gateway tells nothing, or why it or the candidate's servers cannot be made what they should be."""


class ArtifactsStatus(Model):
    """Where the run's artifacts are."""

    folder: Annotated[Line, Field(max_length=128)]
    """Below spec.artifacts.s3.prefix. A run restored from a backup keeps it."""
    owner: Annotated[Line, Field(max_length=64)]
    """UID of the run that writes there. Another UID than the run's own: it was restored, and takes over."""


class RunStatus(Model):
    """How far a run is."""

    observed_generation: int = 0
    conditions: Annotated[tuple[Condition, ...], Field(max_length=12)] = ()
    iteration: int = 0
    """The iteration that runs, or the last one of a run that ended. 0 is the warm start."""
    stage: StageName | None = None
    """The stage that runs or comes next; none before the warm start and between two iterations."""
    attempt: int = 0
    """The latest attempt of that stage; 0 before the first."""
    progress: Annotated[Line, Field(max_length=16)] = ""
    """Completed iterations of spec.iterations.max."""
    active: ActiveAttempt | None = None
    """The attempt that runs or is about to."""
    policy: DeployedPolicy | None = None
    """The policy that collects now."""
    start_policy: ArtifactRef | None = None
    """The warm-start policy; exploration draws on it."""
    previous_q: ArtifactRef | None = None
    """Q of the latest iteration that fitted one."""
    completed_iterations: int = 0
    consecutive_rejections: int = 0
    iterations: Annotated[tuple[IterationStatus, ...], Field(max_length=MAX_HISTORY)] = ()
    """The latest spec.historyLimit iterations."""
    best: BestPolicy | None = None
    last_failure: LastFailure | None = None
    budgets: Budgets = Budgets()
    serving: ServingStatus | None = None
    """Of spec.serve, once there is a policy."""
    live: LiveStatus | None = None
    """Of a run with spec.collect.logged, once there is a policy."""
    artifacts: ArtifactsStatus | None = None
    """Where they are. None: of an operator that did not write it down."""

    def condition(self, kind: ConditionType) -> Condition | None:
        """The condition of that type."""
        return next((condition for condition in self.conditions if condition.type == kind), None)

    def is_true(self, kind: ConditionType) -> bool:
        """Whether that condition is True."""
        condition = self.condition(kind)
        return condition is not None and condition.status == "True"
