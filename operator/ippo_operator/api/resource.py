"""The IterativePPORun: what a user writes. The sections of the stages are the contract's own models."""

from typing import Annotated, Any, Literal, get_args

from ippo_trainer.contract import fields, params
from ippo_trainer.contract.params import Model
from ippo_trainer.contract.personas import Personas
from pydantic import Field

from ippo_operator.api.pods import ObjectName, Pods
from ippo_operator.api.run_sections import S3, Artifacts, Cleanup, Gateway, Promotion, Queue, Report, Serve
from ippo_operator.api.status import MAX_HISTORY, RunStatus

ApiVersion = Literal["ippo.dev/v1alpha1"]
Kind = Literal["IterativePPORun"]
[API_VERSION], [KIND] = get_args(ApiVersion), get_args(Kind)
GROUP, VERSION = API_VERSION.split("/")
PLURAL = "iterativepporuns"

RUN_NAME = "^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$"
RUN_NAME_WORDS = "at most 63 characters: a lower-case letter, then letters, digits and '-', ending in a letter or digit"
RunName = Annotated[str, fields.matching(RUN_NAME, RUN_NAME_WORDS, 63)]
MAX_REQUESTED = 1000


class Metadata(Model):
    """Kubernetes' ObjectMeta. What the API server fills in is accepted, so that `kubectl get -o yaml` can be run."""

    name: RunName
    """Child names and artifact paths are made of it."""
    namespace: Annotated[str, Field(max_length=63)] | None = None
    """Namespace in a cluster."""
    labels: dict[str, str] | None = None
    """Labels, as many as Kubernetes takes."""
    annotations: dict[str, str] | None = None
    """Annotations, as many as Kubernetes takes."""
    uid: Annotated[str, Field(max_length=64)] = ""
    """Set by the server, or by the local runner when the run first starts."""
    generation: Annotated[int, Field(ge=1)] = 1
    """Rises with every change of the spec."""
    creation_timestamp: str | None = None
    """Set by the server."""
    resource_version: str | None = None
    """Set by the server."""
    deletion_timestamp: str | None = None
    """Set by the server."""
    deletion_grace_period_seconds: int | None = None
    """Set by the server."""
    generate_name: str | None = None
    """What the server made the name of, where it was asked to."""
    self_link: str | None = None
    """Set by older servers."""
    managed_fields: list[Any] = []
    """Set by the server."""
    owner_references: list[Any] = []
    """Set by whatever made this object."""
    finalizers: list[str] = []
    """Set by controllers."""


class StopWhen(Model):
    """Ends the run before iterations.max; whichever comes first."""

    consecutive_rejections: Annotated[int, Field(ge=1, le=1000)] | None = None
    """So many iterations in a row without a promotion."""
    success_at_least: fields.Share | None = None
    """The success of a promoted policy, by its A/B test or else its evaluation, reaches this."""


class Iterations(Model):
    """How often the loop goes round."""

    max: Annotated[int, Field(ge=1, le=1000)]
    """Iterations. May be raised later: a completed run then goes on."""
    stop_when: StopWhen = StopWhen()
    """Earlier ends."""


class Simulate(params.Collect):
    """Collect from a conversation simulator."""

    environment: params.EnvironmentSpec
    """The simulator."""


class LiveCollect(params.Logged, Personas):
    """Collect what the run's gateway logged: conversations that the current policy held with customers."""

    min_conversations: Annotated[int, Field(ge=2, le=10_000_000)] = 1000
    """Conversations of the current policy with a known outcome that an iteration waits for. May change at any time."""
    min_outcomes: Annotated[int, Field(ge=1, le=10_000_000)] = 20
    """Of them with the outcome. May change at any time."""


class CollectFrom(Model):
    """Where conversations come from."""

    simulate: Simulate | None = None
    """A simulator; it also evaluates the candidates. Without one there are history and one iteration, whose candidate
    waits for your approval."""
    history: params.LogHistory | None = None
    """A log that iteration 1 learns from in place of the others."""
    logged: LiveCollect | None = None
    """What the run's gateway logs of live conversations. The run then has a gateway (`spec.gateway`)."""

    @property
    def talks(self) -> bool:
        """Whether the policy talks to customers, simulated or real."""
        return self.simulate is not None or self.logged is not None

    def history_of(self, iteration: int) -> params.LogHistory | None:
        """The log that the data of this iteration come from; None where they come from customers."""
        return self.history if iteration == 1 else None


class FitQSection(params.FitQ):
    """How Q is fitted to returns, and what becomes of a Q that tells nothing."""

    on_uninformative: Literal["Stop", "CollectMore"] | None = None
    """What to do with a Q that tells no more than a constant. CollectMore collects as many conversations again, into
    the same data, and fits once more. Stop, if left out, ends the run."""
    max_collections: Annotated[int, Field(ge=2, le=20)] | None = None
    """How often one iteration may collect, the first time included. 3 if left out."""


MAX_COLLECTIONS = 3
"""Where fitQ.maxCollections is left out."""


MAX_BACKOFF = 600
"""Seconds up to which a back-off doubles."""


class Retries(Model):
    """How often one stage is tried again, by what went wrong. A wrong spec or wrong data stalls the run until
    `requested`, spec.pods or artifacts.s3 changes.

    May be raised later: a run that stalled for an exhausted budget then goes on.
    """

    try_again: Annotated[int, Field(ge=0, le=100)] = 5
    """Exit code 75: the world was not ready, such as a store that is down or a full disk; also pods that waited longer
    than pendingDeadlineSeconds."""
    crashes: Annotated[int, Field(ge=0, le=100)] = 2
    """Any unknown exit code, and results that cannot be read."""
    disruptions: Annotated[int, Field(ge=0, le=1000)] = 100
    """Stages that were told to stop or whose process was lost. They cost only time; the bound ends endless loops."""
    requested: Annotated[int, Field(ge=0, le=MAX_REQUESTED)] | None = None
    """Change it, as `ippo retry` does, to have the stage that stalled, or the roll-out that failed, tried once more
    after its cause was mended: a bucket that was missing, a log that was wrong. A change of spec.pods or artifacts.s3
    does the same."""
    backoff_seconds: Annotated[int, Field(ge=0, le=3600)] = 10
    """Wait before the first repetition after exit code 75, a crash or a fourth disruption; doubles each time, up to 10
    minutes or to this, if it is longer."""


class RunSpec(Model):
    """What to compute is immutable once the run started; how it runs may change."""

    suspend: bool = False
    """Stops the running stage at its next checkpoint and starts no other until it is false again."""
    seed: Annotated[int, Field(ge=0, le=2**53 - 1)] = 0
    """Every random stream of the run derives from it. At most what every JSON tool keeps exactly."""
    discount: fields.Share = "0.95"
    """Per turn: an outcome n turns away is worth discount^n."""
    threads: Annotated[int, Field(ge=1, le=256)] = 2
    """CPU threads of a stage; the shards of collect share them. The training of a model so small that threads gain
    nothing has as many processes instead. Part of the results' identity."""
    device: params.Device = "auto"
    """Where tensors live. `auto` takes a GPU where there is one."""
    iterations: Iterations
    """How often the loop goes round."""
    policy: params.Policy
    """The language model that suggests replies."""
    warm_start: params.WarmStart | None = None
    """Supervised start. Without it the base model is deployed as it is."""
    collect: CollectFrom
    """Deploy the current policy and log conversations."""
    artifacts: Artifacts | None = None
    """Where artifacts are kept. A run in a cluster needs it."""
    fit_q: FitQSection = FitQSection()
    """Fit Q to what became of suggestions."""
    improve: params.Improve = params.Improve()
    """The next policy: better by Q on the logged states."""
    evaluate: params.Evaluate = params.Evaluate()
    """Candidate and current policy on the same seeds, and the gate."""
    promotion: Promotion = Promotion()
    """Who has the last word on a candidate that the gate lets pass."""
    serve: Serve | None = None
    """Serve the promoted policy. Without it nothing is deployed."""
    gateway: Gateway | None = None
    """Of the gateway that collect.logged asks for. Without it, a gateway has the defaults."""
    retries: Retries = Retries()
    """How often a stage is tried again."""
    pods: Pods = Pods()
    """Images, resources, nodes, files of the run's pods. In a cluster only."""
    queue: Queue | None = None
    """Wait for quota in a Kueue queue. In a cluster only."""
    service_account_name: ObjectName | None = None
    """Service account of the pods, for a cloud provider's role; its token is not mounted. By default `default`. In a
    cluster only."""
    report: Report | None = None
    """What the report tells the owner of the business. If left out, no money is named."""
    cleanup: Cleanup = Cleanup()
    """When Jobs of ended stages are deleted. In a cluster only."""
    history_limit: Annotated[int, Field(ge=1, le=MAX_HISTORY)] = MAX_HISTORY
    """Iterations kept in the status. The ledger among the artifacts keeps all."""

    def store_address(self) -> dict[str, str]:
        """What may change of where artifacts are; nothing where a local run keeps them in its folder."""
        location = self.artifacts.s3.model_dump(mode="json", by_alias=True, exclude_none=True) if self.artifacts else {}
        return {field: location[field] for field in S3.ADDRESS if field in location}


class IterativePPORun(Model):
    """A run of Iterative PPO: collect, fit-q, improve, evaluate, promote, again and again."""

    api_version: ApiVersion
    """Of this schema."""
    kind: Kind
    """Of this object."""
    metadata: Metadata
    """Name and labels."""
    spec: RunSpec
    """What to do."""
    status: RunStatus | None = None
    """How far it is. Written by the operator only."""
