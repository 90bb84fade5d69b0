"""A run in a cluster, and what its stages are asked for."""

from typing import Any

from ippo_operator.api.load import parse_run
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.run_sections import Serve
from ippo_operator.api.status import DeployedPolicy
from ippo_operator.manifests.platform import Platform
from ippo_operator.manifests.serving import ServingContext
from ippo_operator.plan.names import job_name
from ippo_operator.plan.stage_specs import s3_location
from ippo_operator.plan.types import JobIntent
from ippo_trainer.contract.spec import ArtifactRef, StageSpec, StoreLocation
from ippo_trainer.contract.stages import StageName

PLATFORM = Platform(image="trainer:1", serve_image="server:1")
POLICY = DeployedPolicy(iteration=3, artifact=ArtifactRef(key="iterations/0003/policy/00", digest="sha256:" + "a" * 64))


def cluster_run(name: str = "shop", **spec: Any) -> IterativePPORun:
    """As read from an API server."""
    whole: dict[str, Any] = {
        "iterations": {"max": 3},
        "policy": {"base": "tiny:d32-l1"},
        "warmStart": {"demonstrations": 100},
        "collect": {"simulate": {"environment": {"name": "sr-funnel"}, "parallelism": 3}},
        "artifacts": {"s3": {"bucket": "ippo", "prefix": "team", "endpointUrl": "http://s3:9000"}},
    }
    metadata = {"name": name, "namespace": "default", "uid": "6f0f9b7c-5f0e-4a53-9f3d-0c2a7d1d9f10", "generation": 1}
    return parse_run(
        {"apiVersion": "ippo.dev/v1alpha1", "kind": "IterativePPORun", "metadata": metadata, "spec": whole | spec}
    )


def live_run(name: str = "shop", **spec: Any) -> IterativePPORun:
    """One whose policy talks to customers through a gateway."""
    live = {"warmStart": {"conversations": "s3://shop/log.jsonl"}, "collect": {"logged": {}}, "serve": {}}
    return cluster_run(name, **live | spec)


def location(run: IterativePPORun) -> StoreLocation:
    assert run.spec.artifacts is not None
    return StoreLocation(s3=s3_location(run, run.spec.artifacts.s3))


def serving_context(run: IterativePPORun, serve: Serve | None = None, platform: Platform = PLATFORM) -> ServingContext:
    """Of servers."""
    return ServingContext(run, serve or Serve(), location(run), platform)


def intent(
    run: IterativePPORun, stage: StageName = "improve", shards: int | None = None, attempt: int = 1, iteration: int = 2
) -> JobIntent:
    """An attempt of a stage."""
    spec = StageSpec(
        stage=stage,
        run=run.metadata.name,
        iteration=iteration,
        attempt=attempt,
        seed=1,
        discount="0.95",
        store=location(run),
        policy=run.spec.policy,
    )
    return JobIntent(job_name(run.metadata.name, run.metadata.uid, iteration, stage, attempt), spec, shards)


RICH: dict[str, Any] = {
    "common": {
        "image": "mine:2",
        "imagePullPolicy": "IfNotPresent",
        "resources": {"requests": {"cpu": 2, "memory": "4Gi"}, "limits": {"memory": "8Gi"}},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [
                    {"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": "kubernetes.io/hostname"}
                ]
            }
        },
        "topologySpreadConstraints": [{"topologyKey": "topology.kubernetes.io/zone"}],
        "imagePullSecrets": ["registry"],
        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "1"}],
        "volumes": [{"name": "logs", "mountPath": "/data", "persistentVolumeClaim": {"claimName": "logs"}}],
        "labels": {"team": "a"},
        "annotations": {"note": "x"},
        "runtimeClassName": "nvidia",
        "priorityClassName": "batch",
        "activeDeadlineSeconds": 3600,
    },
    "improve": {
        "resources": {"limits": {"nvidia.com/gpu": 1}},
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "env": [{"name": "B", "value": "2"}, {"name": "T", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
        "volumes": [
            {"name": "cache", "mountPath": "/cache", "emptyDir": {"sizeLimit": "1Gi"}},
            {"name": "models", "mountPath": "/models", "subPath": "a", "secret": {"secretName": "m"}},
        ],
        "sharedMemory": "2Gi",
        "workSize": "10Gi",
        "terminationGracePeriodSeconds": 300,
    },
    "serve": {"resources": {"limits": {"nvidia.com/gpu": 1}}},
}
"""spec.pods with every field in use."""
