"""What may be set on pods: an allow-list, bounded, and nothing that reaches beyond the run's namespace.

Security settings, commands and the volumes that the stages need are the operator's. There is no hostPath, no
privilege, no host network and no service account token.
"""

from typing import Annotated, Any, Literal

from ippo_trainer.contract.fields import NAME, WHOLE, matching
from ippo_trainer.contract.params import Model
from ippo_trainer.contract.stages import BY_NAME, StageName
from pydantic import AfterValidator, Field

from ippo_operator.api import quantities
from ippo_operator.api.scheduling import YEAR, Affinity, Spread, StringMap, Toleration

LIST_MAP = "x-kubernetes-list-type"
LIST_KEYS = "x-kubernetes-list-map-keys"
LIST_BY_NAME = {LIST_MAP: "map", LIST_KEYS: ["name"]}

Size = Annotated[str, matching(quantities.PATTERN, "a quantity such as 500m, 2, 8Gi", 32)]
Quantity = Annotated[int, Field(ge=0, le=2**53 - 1)] | Size
DEVICES = "/"
"""In names of resources that Kubernetes takes whole numbers of only, with limits: nvidia.com/gpu."""
Quantities = Annotated[dict[str, Quantity], Field(max_length=16, json_schema_extra={WHOLE: DEVICES})]
ObjectName = Annotated[
    str,
    matching(
        r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$",
        "the name of an object: lower-case letters, digits, '-' and dots",
        253,
    ),
]
_LABEL_WORDS = "lower-case letters, digits and '-', at most 63"
LabelName = Annotated[str, matching(NAME, _LABEL_WORDS, 63)]
DataKey = Annotated[str, matching(r"^[-._a-zA-Z0-9]+$", "a key: letters, digits, '-', '_' and dots", 253)]
Seconds = Annotated[int, Field(ge=1, le=YEAR)]


class Resources(Model):
    """Of each pod."""

    requests: Quantities = {}
    """What a pod is sure to get, e.g. cpu: 2, memory: 4Gi. Queues count this."""
    limits: Quantities = {}
    """What a pod cannot exceed, e.g. memory: 8Gi, nvidia.com/gpu: 1. Beyond its memory limit a stage is killed."""


class KeyRef(Model):
    """A key of a Secret or ConfigMap in the run's namespace."""

    name: ObjectName
    """Name of the object."""
    key: DataKey
    """Key in it."""


class ValueFrom(Model):
    """Exactly one source of a variable's value."""

    secret_key_ref: KeyRef | None = None
    """A Secret. Prefer a volume: files are seen by one process, variables by all that it starts."""
    config_map_key_ref: KeyRef | None = None
    """A ConfigMap."""


class EnvVar(Model):
    """An environment variable: value or valueFrom."""

    name: Annotated[
        str, matching(r"^[A-Za-z_][A-Za-z0-9_]*$", "a variable's name: letters, digits and '_', no digit first", 128)
    ]
    """Not one of those that the operator sets: IPPO_… except IPPO_VLLM_ARGS and IPPO_BASE_CACHE, and those of
    Kubernetes, the bucket's credentials, scratch folders and the threads of libraries."""
    value: Annotated[str, Field(max_length=4096)] | None = None
    """Its value. Not for secrets."""
    value_from: ValueFrom | None = None
    """Where its value is."""


class ClaimSource(Model):
    """A PersistentVolumeClaim of the run's namespace."""

    claim_name: ObjectName
    """Its name."""


class SecretSource(Model):
    """A Secret of the run's namespace, as files."""

    secret_name: ObjectName
    """Its name."""


class ConfigMapSource(Model):
    """A ConfigMap of the run's namespace, as files."""

    name: ObjectName
    """Its name."""


class EmptyDirSource(Model):
    """Scratch space that ends with the pod."""

    size_limit: Size | None = None
    """A pod that writes more is evicted."""
    medium: Literal["", "Memory"] = ""
    """Memory counts towards the memory limit."""


class Volume(Model):
    """Files for a pod: exactly one source."""

    name: Annotated[str, matching(NAME, _LABEL_WORDS, 52)]
    """Any name."""
    mount_path: Annotated[str, matching(r"^/[^:]*$", "an absolute path without ':'", 512)]
    """Where the files appear; not in /ippo, /tmp or /dev, which the operator provides."""
    sub_path: Annotated[str, Field(max_length=512)] = ""
    """A folder of the volume instead of its root."""
    read_only: bool = True
    """Whether the pod may only read."""
    persistent_volume_claim: ClaimSource | None = None
    """A claim: models, logs, your own environment's files."""
    secret: SecretSource | None = None
    """A Secret."""
    config_map: ConfigMapSource | None = None
    """A ConfigMap."""
    empty_dir: EmptyDirSource | None = None
    """Scratch space."""


VOLUME_SOURCES = ("persistent_volume_claim", "secret", "config_map", "empty_dir")
"""Fields of a Volume, of which one is given."""


def _unique(items: tuple[Any, ...]) -> tuple[Any, ...]:
    """What the API server asks of lists with LIST_BY_NAME."""
    names = [item.name for item in items]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f'"{name}" is given twice')
    return items


class PodSettings(Model):
    """What may be set on pods."""

    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Container image; by default the one that the operator was installed with. A digest makes a run repeatable."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """By default that of the operator's installation (stageImagePullPolicy); where that says nothing, Kubernetes
    decides: Always for :latest, IfNotPresent otherwise."""
    resources: Resources = Resources()
    """CPU, memory, GPUs."""
    node_selector: StringMap = {}
    """Labels that a node must have."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] | None = None
    """Taints that do not keep pods away."""
    env: Annotated[
        tuple[EnvVar, ...], Field(max_length=64, json_schema_extra=LIST_BY_NAME), AfterValidator(_unique)
    ] = ()
    """Environment variables."""
    volumes: Annotated[
        tuple[Volume, ...], Field(max_length=16, json_schema_extra=LIST_BY_NAME), AfterValidator(_unique)
    ] = ()
    """Files."""
    labels: StringMap = {}
    """More labels for pods, of gang schedulers too; app.kubernetes.io/name, instance and managed-by replace ours."""
    annotations: Annotated[dict[str, Annotated[str, Field(max_length=1024)]], Field(max_length=32)] = {}
    """Annotations for pods, e.g. cluster-autoscaler.kubernetes.io/safe-to-evict."""
    runtime_class_name: ObjectName | None = None
    """RuntimeClass, e.g. nvidia or gvisor."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of the pods. For the order in a queue, see queue.priorityClassName."""
    scheduler_name: ObjectName | None = None
    """Who binds pods to nodes; by default Kubernetes' own scheduler."""
    shared_memory: Size | None = None
    """Size of /dev/shm, e.g. 8Gi; by default the runtime's 64 MiB. It counts towards the memory limit."""
    work_size: Size | None = None
    """A pod whose work directory grows beyond this is evicted; by default the node's disk is the limit."""


class StagePods(PodSettings):
    """What may be set on the pods of a stage."""

    active_deadline_seconds: Seconds | None = None
    """How long a pod may run, from when its node started it: neither a queue nor a wait for GPUs counts. Beyond it the
    stage has failed and is tried again, from its checkpoint, as retries.crashes allows."""
    pending_deadline_seconds: Seconds | None = None
    """How long pods may wait for a node and their image, once the queue let them in; beyond it the stage is tried again
    as retries.tryAgain allows. Without it they wait for ever and the run says what for."""
    termination_grace_period_seconds: Annotated[int, Field(ge=5, le=3600)] | None = None
    """How long a stage that is told to stop has to save its checkpoint; by default 60."""


class ImprovePods(StagePods):
    """What may be set on the pods of improve."""

    nodes: Annotated[int, Field(ge=1, le=64)] = 1
    """Pods that train together, each on the GPUs that its limits name. If one ends, the attempt ends, and the next
    goes on from the checkpoint. Other numbers of pods or GPUs give the same policy but for rounding."""


class CommonPods(StagePods):
    """What may be set on all pods of a run."""

    affinity: Affinity | None = None
    """Near to what, and far from what, pods run. For single stages there are nodeSelector and tolerations."""
    topology_spread_constraints: Annotated[tuple[Spread, ...], Field(max_length=4)] = ()
    """How the pods of one Job, or the servers, spread over nodes or zones."""
    image_pull_secrets: Annotated[tuple[ObjectName, ...], Field(max_length=8)] = ()
    """Names of Secrets with registry credentials."""


class Pods(Model):
    """Pods by what they do. In a cluster only; local runs ignore it.

    A section adds to `common`: maps, env and volumes merge by key or name, everything else that it gives replaces.
    May change at any time; it counts from the next attempt of a stage on. To apply it now, suspend and resume the run.
    A stage that stalled is tried again with what changed.
    """

    common: CommonPods = CommonPods()
    """All pods of the run; its image is that of the stages, servers have another one."""
    warm_start: StagePods = StagePods()
    """The supervised start."""
    collect: StagePods = StagePods()
    """Each shard of collect."""
    fit_q: StagePods = StagePods()
    """The regression of Q."""
    improve: ImprovePods = ImprovePods()
    """The improvement of the policy."""
    evaluate: StagePods = StagePods()
    """The evaluation."""
    serve: PodSettings = PodSettings()
    """The servers of the promoted policy."""

    def of(self, stage: StageName) -> StagePods:
        """A stage's own section."""
        section: StagePods = getattr(self, BY_NAME[stage].section)
        return section

    def pending_limit(self, stage: StageName) -> int | None:
        """Seconds that a stage's pods may wait for a node and their image; None: for ever."""
        own = self.of(stage).pending_deadline_seconds
        return self.common.pending_deadline_seconds if own is None else own
