"""Manifests that must be refused, and such that must pass, by pydantic and by the API server alike."""

from typing import Any, NamedTuple

from ippo_operator.api.rules import NOT_YOURS

from tests.kit.manifests import small_manifest, with_field

GOOD = small_manifest(artifacts={"s3": {"bucket": "bucket"}})


def changed(path: str, value: Any, document: dict[str, Any] = GOOD) -> dict[str, Any]:
    """The document with the field at a dotted path set, or removed for `...`."""
    return with_field(document, path, value)


SPELLINGS = ("//", "/.", "/./", "//ippo", "/./ippo", "/ippo/", "/ippo//work", "/ippo/.", "/.//./tmp", "/dev/./shm")
"""Of folders that the operator provides."""
CLIMBING = ("/data/../ippo", "/work/../..", "/..", "/work/..", "/../ippo", "//..//ippo")
FREE_PATHS = ("/work/.", "/data/", "//data", "/./data", "/.ippo", "/...", "/ippos", "/a/ippo", "/tmp.d", "/..a", "/a..")
OWN_KEYS = (
    "ippo.dev/run-uid",
    "a.ippo.dev/b",
    "app.kubernetes.io/component",
    "batch.kubernetes.io/job-name",
    "kueue.x-k8s.io/queue-name",
    "container.apparmor.security.beta.kubernetes.io/stage",
)
FREE_KEYS = (
    "team",
    "example.com/x",
    "ippo.development/x",
    "app.kubernetes.io/name",
    "app.kubernetes.io/part-of",
    "app.kubernetes.io/component-of",
    "cluster-autoscaler.kubernetes.io/safe-to-evict",
    "scheduling.x-k8s.io/pod-group",
    "pod-group.scheduling.sigs.k8s.io/name",
    "scheduling.k8s.io/group-name",
    "controller.kubernetes.io/pod-deletion-cost",
    "karpenter.sh/do-not-disrupt",
    "kueue.x-k8s.io/podset-required-topology",
)
"""Of autoscalers, gang schedulers and people; as labels and as annotations."""


class Bad(NamedTuple):
    """A field at a dotted path, the value that is refused, and the rule's message, if it is a rule between fields."""

    path: str
    value: Any
    rule: str = ""


def environment(**options: Any) -> dict[str, Any]:
    return {"environment": {"name": "sr-funnel", "options": options}}


def sampled(sampler: str, **fields: Any) -> dict[str, Any]:
    return environment() | {"conversations": 4, "sampler": sampler} | fields


def volume(**fields: Any) -> list[dict[str, Any]]:
    return [{"name": "v", "mountPath": "/data", "emptyDir": {}} | fields]


def persona(name: str, share: str = "0.1") -> dict[str, Any]:
    return {"name": name, "share": share}


def env(**fields: Any) -> list[dict[str, Any]]:
    return [{"name": "A"} | fields]


POD = "spec.pods.collect"
KEY = {"name": "n", "key": "k"}
FILES = "allowed is exactly one of persistentVolumeClaim, secret, configMap, emptyDir"
RELATIVE = "allowed are a mountPath and a relative subPath without .."
TAKEN = "the operator provides this folder; take another one"
SEGMENTS = "allowed are segments of letters, digits, '.', '_', '=' and '-' joined by '/', none starting with a dot"
ONE_SOURCE = "allowed is exactly one of conversations and demonstrations"
NO_HUB = "no stage can read hf://; download the {} and give file:// or s3://"
POSITIVE = 'allowed is above "0": at 0 no later outcome counts'
OWN_TURNS = 'allowed is below "1": Q is the policy\'s, so some turns must be its own'
HOTTEST = "vLLM samples at temperatures of 2 at most: lower temperature and, if it explores, explorationTemperature"
DRAWN_ONCE = "allowed is VLLM with algorithm PPO only: MPO draws its candidates once"
BETWEEN = 'allowed is above "0" and below "1": some train, others measure'
NEEDS_SOURCE = (
    "is missing; collect takes conversations from simulate, from logged, from history, or from history first and one "
    "of the others later"
)
ONE_ITERATION = (
    "allowed is 1 without collect.simulate and collect.logged: after collect.history nobody talks to customers"
)
ONE_OF_BOTH = "allowed is one of simulate and logged: customers are simulated or real"
NEEDS_SERVERS = (
    "is missing; the gateway of collect.logged asks its servers: give serve: {}, or without vLLM "
    "serve: {engine: Transformers}"
)
NEEDS_GATEWAY = "strategy Canary needs collect.logged: an A/B test is decided by what a gateway logs"
NO_GATEWAY = "allowed with collect.logged only: without it there is no gateway"
TWO_SIDES = 'allowed is above "0" and below "1": both policies need conversations'
SOME_ERROR = 'allowed is above "0" and below "1": a probability of error'
IN_ORDER = "allowed is at most maxConversations"
ONE_OF_EACH = "allowed is one persona of each name"
SHARES = "allowed are shares of at most maxExploration together, 0.3 if left out"
WARM = 'allowed is "0.01" to "2", as every sampler can'
OWN_CONVERSATIONS = 'allowed is below "1": Q is the policy\'s, so some conversations must be its own'
ROOM = "allowed is a volume with storage for journalBytes or more, 1Gi if left out"
NO_CUSTOMERS = "gate.minAcceptance needs collect.simulate: without customers nobody accepts anything"
NO_DEMONSTRATIONS = "demonstrations are a simulator's; without collect.simulate give warmStart.conversations"
WINDOW = "allowed with outcomes only: it says how long those count"
WHOLE_RETURNS = "it regresses whole returns: leave traceLambda and lastLayer out, or give 1 and Gradient"
LOGGED: dict[str, Any] = GOOD["spec"] | {
    "iterations": {"max": 1},
    "warmStart": {"conversations": "s3://shop/log.jsonl"},
    "collect": {"history": {"conversations": "s3://shop/log.jsonl"}},
}
"""A run of a log alone."""
LIVE: dict[str, Any] = LOGGED | {"iterations": {"max": 2}, "collect": {"logged": {}}, "serve": {}}
"""A run of live conversations."""


def live(**logged: Any) -> dict[str, Any]:
    """That run, with fields of collect.logged."""
    return LIVE | {"collect": {"logged": logged}}


TWO = "allowed is 2 or more with GRPO and RLOO, which compare the suggestions of a state"
NO_BONUS = 'allowed is "0" with RLOO, which has no entropy bonus'
ONE_NODE = "allowed is PPO or MPO with pods.improve.nodes above 1: trl's trainers run on one process"
NEEDS_WORDS = "is missing; a tiny: base learns its words from warmStart.conversations or warmStart.demonstrations"

BAD_VOLUMES: list[dict[str, Any]] = [
    {},
    {"storage": "2 Gi"},
    {"storage": "-1Gi"},
    {"storage": "2GiB"},
    {"storage": 2},
    {"storage": "2Gi", "storageClassName": ""},
    {"storage": "2Gi", "storageClassName": "Fast Disks"},
]

BAD = [
    # rules between fields
    Bad("spec.warmStart", {"demonstrations": 10, "conversations": "file:///log.jsonl"}, ONE_SOURCE),
    Bad("spec.warmStart", {}, ONE_SOURCE),
    Bad("spec.warmStart", ..., NEEDS_WORDS),
    Bad("spec.policy.base", "hf://a/b", NO_HUB.format("model")),
    Bad("spec.warmStart", {"conversations": "hf://a/b"}, NO_HUB.format("log")),
    Bad("spec.discount", "0.0", POSITIVE),
    Bad("spec.collect.simulate.exploration", "1", OWN_TURNS),
    Bad("spec.collect.simulate", sampled("VLLM", temperature="2.1"), HOTTEST),
    Bad("spec.collect.simulate", sampled("VLLM", exploration="0.1"), HOTTEST),
    Bad("spec.improve", {"sampler": "VLLM"}, DRAWN_ONCE),
    Bad("spec.improve", {"sampler": "VLLM", "algorithm": "MPO"}, DRAWN_ONCE),
    Bad("spec.improve.sampler", "Auto"),
    Bad("spec.collect.simulate.parallelism", 5, "allowed is at most conversations"),
    Bad("spec.fitQ.holdout", "0", BETWEEN),
    Bad("spec.fitQ.holdout", "1.0", BETWEEN),
    Bad("spec.collect", {}, NEEDS_SOURCE),
    Bad("spec", LOGGED | {"iterations": {"max": 2}}, ONE_ITERATION),
    Bad("spec", LOGGED | {"warmStart": {"demonstrations": 10}}, NO_DEMONSTRATIONS),
    Bad("spec", LOGGED | {"evaluate": {"gate": {"minAcceptance": "0.5"}}}, NO_CUSTOMERS),
    Bad("spec", LIVE | {"collect": {"logged": {}} | GOOD["spec"]["collect"]}, ONE_OF_BOTH),
    Bad("spec", {key: value for key, value in LIVE.items() if key != "serve"}, NEEDS_SERVERS),
    Bad("spec.serve.strategy", "Canary", NEEDS_GATEWAY),
    Bad("spec.gateway", {}, NO_GATEWAY),
    Bad("spec", live(personas=[persona("a"), persona("a")]), ONE_OF_EACH),
    Bad("spec", live(personas=[persona("a", "0.2"), persona("b", "0.2")]), SHARES),
    Bad("spec.collect.simulate.personas", [persona("a", "0.2"), persona("b", "0.2")], SHARES),
    Bad("spec", live(personas=[persona("a")], maxExploration="0.01"), SHARES),
    Bad("spec", live(maxExploration="1"), OWN_CONVERSATIONS),
    Bad("spec.collect.simulate.maxExploration", "1", OWN_CONVERSATIONS),
    Bad("spec", live(personas=[persona("a") | {"temperature": "2.1"}]), WARM),
    Bad("spec.collect.simulate.personas", [persona("a") | {"temperature": "2.1"}], WARM),
    *(Bad("spec", LIVE | {"gateway": {"journalVolume": {"storage": size}}}, ROOM) for size in ("0", "500m", "1G")),
    Bad("spec", LIVE | {"gateway": {"journalVolume": {"storage": "2Gi"}, "journalBytes": 1 << 32}}, ROOM),
    *(Bad("spec", LIVE | {"gateway": {"journalVolume": volume}}) for volume in BAD_VOLUMES),
    Bad("spec.collect.history", {"conversations": "s3://a/b", "window": "14d"}, WINDOW),
    Bad("spec.collect.history", {"conversations": "s3://a/b", "outcomes": "s3://a/c", "window": "2 weeks"}),
    Bad("spec.collect.history", {"conversations": "hf://a/b"}, NO_HUB.format("log")),
    Bad("spec.collect.history", {"conversations": "s3://a/b", "outcomes": "hf://a/b"}, NO_HUB.format("file")),
    Bad("spec.fitQ", {"method": "MonteCarlo", "traceLambda": "0.5"}, WHOLE_RETURNS),
    Bad("spec.fitQ", {"method": "MonteCarlo", "lastLayer": "LeastSquares"}, WHOLE_RETURNS),
    *(Bad("spec.improve", {"algorithm": name, "samplesPerState": 1}, TWO) for name in ("GRPO", "RLOO")),
    Bad("spec.improve", {"algorithm": "RLOO", "entropyCoefficient": "0.1"}, NO_BONUS),
    Bad("spec", GOOD["spec"] | {"improve": {"algorithm": "GRPO"}, "pods": {"improve": {"nodes": 2}}}, ONE_NODE),
    Bad("spec.artifacts.s3.prefix", "a/../b", SEGMENTS),
    Bad("spec.artifacts.s3.prefix", "/a", SEGMENTS),
    Bad("spec.artifacts.s3.prefix", "a//b", SEGMENTS),
    Bad("spec.artifacts.s3.kmsKeyId", "alias/mine", "allowed with encryption SSE-KMS only"),
    Bad("spec.promotion", {"approve": 1, "reject": 1}, "approves and rejects the same iteration; give one of the two"),
    Bad(f"{POD}.env", env(), "allowed is exactly one of value and valueFrom"),
    Bad(f"{POD}.env", env(value="1", valueFrom={"secretKeyRef": KEY}), "allowed is exactly one of value and valueFrom"),
    Bad(f"{POD}.env", env(valueFrom={}), "allowed is exactly one of secretKeyRef and configMapKeyRef"),
    Bad(
        f"{POD}.env",
        env(valueFrom={"secretKeyRef": KEY, "configMapKeyRef": KEY}),
        "allowed is exactly one of secretKeyRef and configMapKeyRef",
    ),
    Bad(f"{POD}.env", env(name="IPPO_X", value="1"), "this variable is set by the operator"),
    Bad(f"{POD}.env", env(name="OMP_NUM_THREADS", value="8"), "this variable is set by the operator"),
    Bad(f"{POD}.env", [*env(value="1"), *env(value="2")]),
    Bad(f"{POD}.volumes", [{"name": "v", "mountPath": "/data"}], FILES),
    Bad(f"{POD}.volumes", volume(secret={"secretName": "s"}), FILES),
    Bad(f"{POD}.volumes", volume(mountPath="/"), TAKEN),
    Bad(f"{POD}.volumes", volume(mountPath="/ippo"), TAKEN),
    Bad(f"{POD}.volumes", volume(mountPath="/ippo/work"), TAKEN),
    Bad(f"{POD}.volumes", volume(mountPath="/dev/shm"), TAKEN),
    *(Bad(f"{POD}.volumes", volume(mountPath=path), TAKEN) for path in SPELLINGS),
    *(Bad(f"{POD}.volumes", volume(mountPath=path), RELATIVE) for path in CLIMBING),
    Bad(f"{POD}.volumes", volume(subPath="../x"), RELATIVE),
    Bad(f"{POD}.volumes", volume(subPath="/x"), RELATIVE),
    *(Bad("spec.serve.allowedOrigins", [origin]) for origin in ("shop.example", "https://a.example/", "null", "")),
    Bad(f"{POD}.labels", {"ippo.dev/run": "other"}, NOT_YOURS),
    *(Bad(f"{POD}.labels", {key: "x"}, NOT_YOURS) for key in OWN_KEYS),
    *(Bad(f"{POD}.annotations", {key: "x"}, NOT_YOURS) for key in OWN_KEYS),
    Bad(f"{POD}.tolerations", [{"value": "x"}], "without a key, operator must be Exists"),
    Bad(
        f"{POD}.tolerations",
        [{"key": "gpu", "operator": "Exists", "value": "x"}],
        "operator Exists takes any value; leave value out",
    ),
    # single fields
    Bad("spec.iterations", ...),
    Bad("spec.policy", ...),
    Bad("spec.collect", ...),
    Bad("spec.collect.simulate.environment.name", ""),
    Bad("spec.iterations.max", 0),
    Bad("spec.iterations.max", 1001),
    Bad("spec.iterations.max", "2"),
    Bad("spec.seed", -1),
    Bad("spec.seed", 2**53),
    Bad("spec.discount", 0.95),
    Bad("spec.discount", "1.5"),
    Bad("spec.discount", "1e-1"),
    Bad("spec.improve.learningRate", "0"),
    Bad("spec.improve.algorithm", "DPO"),
    Bad("spec.evaluate.gate.metric", "value"),
    Bad("spec.suspend", "true"),
    Bad("spec.improve", []),
    Bad("spec.unknown", 1),
    Bad("spec.improve.klTaget", "1"),
    Bad("spec.policy.base", "gpt2"),
    Bad("spec.policy.base", "file://" + "x" * 1024),
    Bad("spec.policy.systemPrompt", "x" * 8193),
    Bad("spec.collect.simulate", environment(horizon=6.5) | {"conversations": 4}),
    Bad("spec.collect.simulate", environment(horizon=[6]) | {"conversations": 4}),
    Bad("spec.collect.simulate", environment(horizon={"a": 1}) | {"conversations": 4}),
    Bad("spec.collect.simulate", environment(horizon={}) | {"conversations": 4}),
    Bad("spec.collect.simulate", environment(**{f"o{n}": n for n in range(33)}) | {"conversations": 4}),
    Bad("spec.artifacts.s3.bucket", "Bucket"),
    Bad("spec.artifacts.s3.bucket", "b"),
    Bad("spec.artifacts.s3.endpointUrl", "minio:9000"),
    Bad("spec.artifacts.s3.endpointUrl", "https://user:password@minio:9000"),
    Bad("spec.artifacts.s3.credentialsSecretName", "My_Secret"),
    Bad("spec.queue", {}),
    Bad("spec.queue.localQueueName", "Team_A"),
    Bad("spec.serve.strategy", "BlueGreen"),
    *(Bad("spec", LIVE | {"serve": {"canary": {"share": share}}}, TWO_SIDES) for share in ("0", "1.0")),
    *(Bad("spec", LIVE | {"serve": {"canary": {"level": level}}}, SOME_ERROR) for level in ("0.0", "1")),
    Bad("spec", LIVE | {"serve": {"canary": {"minConversations": 10_001}}}, IN_ORDER),
    Bad("spec.serve.engine", "TGI"),
    Bad("spec.serve.port", 80),
    Bad("spec.serve.replicas", -1),
    Bad("spec.serve.maxTokens", 0),
    Bad("spec.serve.maxTokens", 32_769),
    Bad("spec.serve.maxWaiting", 0),
    Bad("spec.promotion.approve", 0),
    Bad("spec.cleanup.failedSeconds", -1),
    Bad("spec.historyLimit", 21),
    Bad("spec.serviceAccountName", "A b"),
    Bad(f"{POD}.image", ""),
    Bad(f"{POD}.resources.limits", {"cpu": 0.5}),
    Bad(f"{POD}.resources.limits", {"cpu": "-1"}),
    Bad(f"{POD}.resources.limits", {"memory": "8 GB"}),
    Bad(f"{POD}.sharedMemory", "lots"),
    Bad(f"{POD}.activeDeadlineSeconds", 0),
    Bad(f"{POD}.nodeSelector", {"zone": 1}),
    Bad(f"{POD}.env", [{"name": f"A{n}", "value": ""} for n in range(65)]),
    Bad(f"{POD}.env", env(name="1A", value="")),
    Bad(f"{POD}.hostNetwork", True),
    Bad(f"{POD}.volumes", volume(hostPath={"path": "/"})),
    Bad("spec.pods.serve.activeDeadlineSeconds", 10),
    Bad("spec.pods.collect.affinity", {}),
]

AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["h100", "h200"]}]}]
        },
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [{"key": "fast", "operator": "Exists"}]}}
        ],
    },
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": "kubernetes.io/hostname"}
        ]
    },
}

WELL: list[tuple[str, Any]] = [
    ("spec.warmStart", {"conversations": "s3://bucket/log.jsonl"}),
    ("spec.discount", "0.000001"),
    ("spec.seed", 2**53 - 1),
    ("spec.collect.simulate.parallelism", 4),
    ("spec.fitQ.holdout", "0.5"),
    ("spec.collect.simulate", sampled("VLLM", exploration="0.1", explorationTemperature="2")),
    ("spec.collect.simulate", sampled("Auto", exploration="0.1", temperature="2.5")),
    ("spec.improve", {"sampler": "VLLM", "algorithm": "PPO"}),
    ("spec.improve", {"sampler": "Transformers"}),
    ("spec.artifacts.s3", {"bucket": "b.c-d", "prefix": "teams/a=b/", "endpointUrl": "http://minio:9000"}),
    ("spec.promotion", {"mode": "Manual", "approve": 1, "reject": 2}),
    ("spec.queue", {"localQueueName": "team-a", "priorityClassName": "high"}),
    ("spec.serve", {"replicas": 2, "strategy": "Recreate", "onFailure": "Hold"}),
    ("spec.serve", {"engine": "Transformers"}),
    ("spec", LIVE | {"serve": {"strategy": "Canary", "canary": {"share": "0.5"}}, "gateway": {"replicas": 2}}),
    ("spec", LIVE | {"gateway": {"journalVolume": {"storage": "2Gi"}}}),
    ("spec", LIVE | {"gateway": {"journalVolume": {"storage": "1.5G", "storageClassName": "local-path"}}}),
    ("spec.serve", {"allowedOrigins": ["https://shop.example", "http://localhost:3000", "*"]}),
    ("spec.serve", {"maxTokens": 32_768, "maxWaiting": 1}),
    ("spec.pods.serve.env", env(name="IPPO_VLLM_ARGS", value='{"dtype": "float32"}')),
    ("spec.pods.common.env", env(name="IPPO_BASE_CACHE", value="/bases")),
    (f"{POD}.env", [*env(name="MY_IPPO_X", value=""), *env(name="HOMES", value="")]),
    ("spec.serve", {}),
    ("spec.cleanup", {"succeededSeconds": 0}),
    ("spec.serviceAccountName", "trainer"),
    ("spec.collect.simulate", environment(a=1, b=True, c="0.5", d=-3) | {"conversations": 4, "parallelism": 1}),
    ("spec.pods.common.affinity", AFFINITY),
    ("spec.pods.common.topologySpreadConstraints", [{"topologyKey": "topology.kubernetes.io/zone"}]),
    ("spec.pods.common.imagePullSecrets", ["registry"]),
    (f"{POD}.env", [*env(value=""), *env(name="B", valueFrom={"secretKeyRef": KEY})]),
    (
        f"{POD}.volumes",
        [
            {"name": "a", "mountPath": "/data", "persistentVolumeClaim": {"claimName": "c"}, "subPath": "x/y"},
            {"name": "b", "mountPath": "/ippo-data", "secret": {"secretName": "c"}},
            {"name": "c", "mountPath": "/opt/c", "configMap": {"name": "c"}},
            {"name": "d", "mountPath": "/opt/d", "emptyDir": {"sizeLimit": "1Gi", "medium": "Memory"}},
        ],
    ),
    (f"{POD}.tolerations", [{"operator": "Exists"}, {"key": "gpu", "value": "yes", "effect": "NoSchedule"}]),
    (f"{POD}.resources", {"requests": {"cpu": "500m", "memory": "1.5Gi"}, "limits": {"nvidia.com/gpu": 1}}),
    *((f"{POD}.volumes", volume(mountPath=path)) for path in FREE_PATHS),
    (f"{POD}.labels", dict.fromkeys(FREE_KEYS, "x")),
    (f"{POD}.annotations", dict.fromkeys(FREE_KEYS, "x")),
    (f"{POD}.schedulerName", "volcano"),
    (f"{POD}.sharedMemory", "8Gi"),
    (f"{POD}.activeDeadlineSeconds", 3600),
]
