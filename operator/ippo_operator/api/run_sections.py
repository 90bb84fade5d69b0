"""Sections of a run's spec that no stage reads."""

from typing import Annotated, ClassVar, Literal

from ippo_trainer.contract.fields import Positive, matching
from ippo_trainer.contract.judgement import Judgement
from ippo_trainer.contract.live import JOURNAL_BYTES, Canary
from ippo_trainer.contract.origins import ORIGIN
from ippo_trainer.contract.params import EngineName, Model
from ippo_trainer.contract.spec import Encryption, S3Location
from pydantic import Field

from ippo_operator.api.pods import LabelName, ObjectName, Resources, Size


class S3(S3Location):
    """A bucket; the run keeps its artifacts in the folder below prefix that status.artifacts names."""

    ADDRESS: ClassVar = ("endpointUrl", "region", "credentialsSecretName")
    """How the bucket is reached and as whom. A store may move with what it holds, so these may change."""

    bucket: Annotated[
        str,
        matching(
            r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
            "a bucket's name: 3 to 63 lower-case letters, digits, dots and '-'",
            63,
        ),
    ]
    """The bucket's name. It must exist."""
    prefix: Annotated[str, Field(max_length=512)] = ""
    """Put before every key, e.g. teams/sales."""
    endpoint_url: (
        Annotated[str, matching(r"^https?://[^@\s]+$", "an http:// or https:// address without '@'", 512)] | None
    ) = None
    """For stores other than AWS, e.g. http://minio.storage:9000. Without credentials: they belong in the Secret."""
    region: Annotated[str, matching(r"^[a-zA-Z0-9-]+$", "letters, digits and '-'", 64)] | None = None
    """The bucket's region, where the store has regions."""
    encryption: Encryption | None = None
    """Server-side encryption that every write asks for. For buckets that refuse writes without it."""
    kms_key_id: (
        Annotated[str, matching(r"^[A-Za-z0-9:/_-]+$", "letters, digits, ':', '/', '_' and '-'", 512)] | None
    ) = None
    """The key of SSE-KMS: its id, ARN or alias. If left out, the store's own."""
    credentials_secret_name: ObjectName | None = None
    """A Secret of the run's namespace whose key `credentials` is an AWS credentials file ([default], aws_access_key_id,
    aws_secret_access_key). It is mounted as a file. Without it, boto3 takes what the pod has, such as the service
    account's role. Local runs ignore it and take what boto3 finds."""


Origin = Annotated[str, matching(ORIGIN, "https://shop.example, with a port where it has one, or '*'", 268)]


class Artifacts(Model):
    """Where artifacts are kept."""

    s3: S3
    """A bucket. A local run without this section keeps its artifacts in its own folder."""


class Queue(Model):
    """Kueue. In a cluster only; local runs ignore it."""

    local_queue_name: LabelName
    """A LocalQueue of the run's namespace. Every Job of the run waits in it until there is quota; between two stages
    the quota is free for others."""
    priority_class_name: LabelName | None = None
    """A WorkloadPriorityClass: the order in the queue, and who makes room for whom."""


class ServeLog(Model):
    """Servers write what they suggest into the folder `served` of the run's artifacts, for a later run's
    collect.history."""

    credentials_secret_name: ObjectName | None = None
    """A Secret as in artifacts.s3, for servers: of keys that may write `served/*` and no more. Without it, servers have
    the run's own."""


Redaction = Annotated[
    str,
    matching(
        r"^(Email|Phone|CardNumber|[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*)$",
        "Email, Phone, CardNumber or module:function",
        256,
    ),
]


class Serve(Model):
    """Serves the promoted policy: a Deployment and a Service, both named after the run.

    What is served changes with every promotion; the new policy's files are verified before a server starts. Serving
    goes on while the run is suspended and after it ended. On one machine nothing is deployed: runs with collect.logged
    take engine, maxTokens, maxWaiting, strategy and canary from here, `ippo serve` takes maxTokens and log.
    """

    engine: EngineName = "VLLM"
    """VLLM is fast and wants a GPU; its image is pods.serve.image or the operator's image of servers. Transformers is
    for small models and CPUs; it needs no other image than the stages'."""
    replicas: Annotated[int, Field(ge=0, le=100)] = 1
    """Servers. Who scales the Deployment itself, an autoscaler say, keeps their number until this field changes."""
    port: Annotated[int, Field(ge=1024, le=65535)] = 8000
    """Where they listen, and the Service too."""
    max_tokens: Annotated[int, Field(ge=1, le=32_768)] | None = None
    """Where answers are cut, whatever a request asks for; by default policy.maxNewTokens, as in training."""
    max_waiting: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Requests that may wait at a server; more get 429. By default 256."""
    allowed_origins: Annotated[tuple[Origin, ...], Field(max_length=16)] | None = None
    """Pages in browsers that may ask (CORS), e.g. https://shop.example, or '*' for all. Without it, none."""
    log: ServeLog | None = None
    """Log suggestions; `{}` is enough. Without it, nothing is logged, and servers have no credentials of the bucket."""
    strategy: Literal["Surge", "Recreate", "Canary"] = "Surge"
    """Surge starts a new server before it stops an old one, so no request is lost; it takes a spare GPU. Recreate stops
    first. Canary is Surge behind an A/B test: a candidate has servers of its own and gets a share of the gateway's
    conversations, until their outcomes decide. It needs collect.logged."""
    canary: Canary | None = None
    """Of strategy Canary. Without it, a test has the defaults."""
    progress_deadline_seconds: Annotated[int, Field(ge=10, le=86_400)] = 1800
    """A roll-out that gets no new server ready for so long has failed."""
    on_failure: Literal["Rollback", "Hold"] = "Rollback"
    """After a failed roll-out: serve the policy before it again, or leave things as they are for a look."""


class JournalVolume(Model):
    """A PersistentVolumeClaim for each gateway, of access mode ReadWriteOnce."""

    storage: Size
    """What each claim asks for, e.g. 2Gi: at least journalBytes."""
    storage_class_name: ObjectName | None = None
    """The StorageClass. If left out, the cluster's default."""


class Gateway(Model):
    """The gateway of a run that collects what it logged: a Deployment and a Service, both named after the run with
    `-gateway`, in front of its policy servers. `ippo run` starts it as a process.
    """

    replicas: Annotated[int, Field(ge=1, le=100)] = 1
    """Gateways. They share nothing but the bucket."""
    port: Annotated[int, Field(ge=1024, le=65535)] = 8080
    """Where they listen, and the Service too."""
    resources: Resources | None = None
    """CPU and memory of each gateway; all else of its pods is as in pods.common. If left out, those of pods.common."""
    credentials_secret_name: ObjectName | None = None
    """A Secret as in artifacts.s3, for gateways: of keys that may read, write, list and delete `live/*` and no more.
    Without it, gateways have the run's own."""
    keys_secret_name: ObjectName | None = None
    """A Secret of the run's namespace whose key `keys` lists API keys, one a line: a name, its scopes joined by commas
    (`chat`, `events`, `erase`), the key and, to bind it, the beginning of all ids that it may name. Without it,
    everybody who reaches the gateway may ask and report. `ippo run --keys` reads such lines from a file."""
    allowed_origins: Annotated[tuple[Origin, ...], Field(max_length=16)] | None = None
    """Pages in browsers that may ask (CORS), as in spec.serve."""
    redact: Annotated[tuple[Redaction, ...], Field(max_length=16)] | None = None
    """What is replaced in everything before it is written. `Email`, `Phone` and `CardNumber` are patterns; a hook of
    your own is `module:function` of the image, text to text."""
    max_waiting: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Requests that may be under way in a gateway; more get 429. 512 if left out."""
    journal_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 40)] | None = None
    """Of events on a gateway's disk that are not in the bucket yet; beyond it, events are refused with 503. 1 GiB if
    left out."""
    journal_volume: JournalVolume | None = None
    """Keeps each gateway's journal on a volume that outlives its pod: events that a lost pod had not yet brought into
    the bucket are brought there by the next. Without it, the journal is on the pod's own disk. May come, change and go
    at any time. In a cluster only; local runs ignore it."""

    @property
    def most_waiting(self) -> int:
        """Bytes of events that may be on a gateway's disk."""
        return self.journal_bytes or JOURNAL_BYTES


class Promotion(Model):
    """Who has the last word on a candidate that the gate lets pass."""

    mode: Literal["Automatic", "Manual"] = "Automatic"
    """Manual waits for approve or reject, after the A/B test where there is one, and tells so in the condition Promoted
    (AwaitingApproval); so does a run without both collect.simulate and A/B tests (serve.strategy Canary)."""
    approve: Annotated[int, Field(ge=1, le=1000)] | None = None
    """The iteration whose candidate is promoted. May be set at any time; counts only while that candidate waits
    for you, or is in its A/B test, which it ends."""
    reject: Annotated[int, Field(ge=1, le=1000)] | None = None
    """The iteration whose candidate is not promoted. May be set at any time; counts only while that candidate
    waits for you, or is in its A/B test, which it ends."""
    judgement: Judgement | None = None
    """What people said of the candidate's suggestions; `ippo judge` writes it. Evidence for who answers: it decides
    nothing by itself."""


class Report(Model):
    """What the report tells the owner of the business. May change at any time."""

    value_per_outcome: Positive | None = None
    """What one outcome is worth, in `currency`."""
    currency: Annotated[str, Field(min_length=1, max_length=16)] | None = None
    """For example EUR."""


class Cleanup(Model):
    """When Jobs of ended stages are deleted, with their pods, logs and stage specs. The run and its results stay.

    In a cluster only; local runs ignore it. May change at any time.
    """

    succeeded_seconds: Annotated[int, Field(ge=0, le=315_360_000)] = 3600
    """So long after a stage succeeded."""
    failed_seconds: Annotated[int, Field(ge=0, le=315_360_000)] = 604_800
    """So long after an attempt failed; its pods hold the logs."""
