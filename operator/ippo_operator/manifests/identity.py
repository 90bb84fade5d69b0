"""How children are named, labelled and owned, so that they are found, and told from anything else."""

from ippo_trainer.contract.spec import StageSpec

from ippo_operator.api.resource import API_VERSION, KIND, IterativePPORun
from ippo_operator.manifests.types import Metadata

RUN = "ippo.dev/run"
RUN_UID = "ippo.dev/run-uid"
ITERATION = "ippo.dev/iteration"
STAGE = "ippo.dev/stage"
ATTEMPT = "ippo.dev/attempt"
SPEC_DIGEST = "ippo.dev/spec-digest"
"""Label: the first 16 hex digits of the stage spec's input digest."""
INPUT_DIGEST = "ippo.dev/input-digest"
"""Annotation: the whole digest."""
POLICY_DIGEST = "ippo.dev/policy-digest"
"""Annotation: the served policy."""
SETTINGS_DIGEST = "ippo.dev/settings-digest"
"""Annotation of servers' pods: all of their template but the policy. Of Jobs: what the spec says about their pods."""
STORE_DIGEST = "ippo.dev/store-digest"
"""Annotation of Jobs: how the spec says that the store is reached."""
REPLICAS = "ippo.dev/replicas"
"""Annotation of the Deployment: spec.serve.replicas when it was last applied."""
COMPONENT = "app.kubernetes.io/component"
QUEUE_NAME = "kueue.x-k8s.io/queue-name"
PRIORITY_CLASS = "kueue.x-k8s.io/priority-class"


def run_labels(run: IterativePPORun, component: str) -> dict[str, str]:
    """Of everything that a run owns. RUN_UID finds them all; RUN is for people."""
    return {
        "app.kubernetes.io/name": "iterative-ppo",
        "app.kubernetes.io/instance": run.metadata.name,
        COMPONENT: component,
        "app.kubernetes.io/managed-by": "ippo-operator",
        RUN: run.metadata.name,
        RUN_UID: run.metadata.uid,
    }


def stage_labels(run: IterativePPORun, spec: StageSpec) -> dict[str, str]:
    """Of what belongs to one attempt of a stage."""
    return run_labels(run, "stage") | {
        ITERATION: str(spec.iteration),
        STAGE: spec.stage,
        ATTEMPT: str(spec.attempt),
        SPEC_DIGEST: short_digest(spec.input_digest()),
    }


def short_digest(digest: str) -> str:
    """The first 16 hex digits, which fit into a label."""
    return digest.removeprefix("sha256:")[:16]


def metadata(run: IterativePPORun, name: str, labels: dict[str, str], annotations: dict[str, str]) -> Metadata:
    """Of an object that the run owns and that ends with it.

    Raises:
        ValueError: the run has no namespace or UID, so it was not read from an API server.
    """
    if not run.metadata.namespace or not run.metadata.uid:
        raise ValueError(f"run {run.metadata.name} has no namespace or no UID")
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": run.metadata.name,
        "uid": run.metadata.uid,
        "controller": True,
    }
    return {
        "name": name,
        "namespace": run.metadata.namespace,
        "labels": labels,
        "annotations": annotations,
        "ownerReferences": [owner],
    }
