"""How children are named, labelled and owned, so that they are found, and told from anything else."""

from ippo_trainer.contract.spec import StageSpec

from ippo_operator.api.resource import API_VERSION, GROUP, KIND, IterativePPORun
from ippo_operator.manifests.types import ObjectMeta

OURS = f"{GROUP}/"
"""Prefix of our own labels and annotations."""
BATCH = "batch.kubernetes.io/"
"""Prefix of the Job controller's."""
RUN = f"{OURS}run"
RUN_UID = f"{OURS}run-uid"
ITERATION = f"{OURS}iteration"
STAGE = f"{OURS}stage"
ATTEMPT = f"{OURS}attempt"
SPEC_DIGEST = f"{OURS}spec-digest"
"""Label: the first 16 hex digits of the stage spec's input digest."""
INPUT_DIGEST = f"{OURS}input-digest"
"""Annotation: the whole digest."""
POLICY_DIGEST = f"{OURS}policy-digest"
"""Annotation: the served policy."""
SETTINGS_DIGEST = f"{OURS}settings-digest"
"""Annotation of servers' pods: all of their template but the policy. Of Jobs: what the spec says about their pods."""
STORE_DIGEST = f"{OURS}store-digest"
"""Annotation of Jobs: how the spec says that the store is reached."""
REPLICAS = f"{OURS}replicas"
"""Annotation of the Deployment: spec.serve.replicas when it was last applied."""
MANAGER = "ippo-operator"
"""How the operator is called in the books of the API server."""
COMPONENT = "app.kubernetes.io/component"
STAGE_COMPONENT = "stage"
"""Of what belongs to an attempt."""
JOB_INDEX = f"{BATCH}job-completion-index"
"""Label of an Indexed Job's pods, by Kubernetes."""
JOB_UID = f"{BATCH}controller-uid"
"""Label of a Job's pods, by Kubernetes."""
SERVICE_NAME = "kubernetes.io/service-name"
"""Label of a Service's EndpointSlices, by Kubernetes."""
QUEUE_NAME = "kueue.x-k8s.io/queue-name"
PRIORITY_CLASS = "kueue.x-k8s.io/priority-class"


def run_labels(run: IterativePPORun, component: str) -> dict[str, str]:
    """Of everything that a run owns. RUN_UID finds them all; RUN is for people."""
    return {
        "app.kubernetes.io/name": "iterative-ppo",
        "app.kubernetes.io/instance": run.metadata.name,
        COMPONENT: component,
        "app.kubernetes.io/managed-by": MANAGER,
        RUN: run.metadata.name,
        RUN_UID: run.metadata.uid,
    }


def selector(run: IterativePPORun, component: str) -> dict[str, str]:
    """Labels of the pods of one Deployment of the run; they never change, as a Deployment's selector cannot."""
    return {RUN_UID: run.metadata.uid, COMPONENT: component}


def stage_labels(run: IterativePPORun, spec: StageSpec) -> dict[str, str]:
    """Of what belongs to one attempt of a stage."""
    return run_labels(run, STAGE_COMPONENT) | {
        ITERATION: str(spec.iteration),
        STAGE: spec.stage,
        ATTEMPT: str(spec.attempt),
        SPEC_DIGEST: short_digest(spec.input_digest()),
    }


def attempt_selector(labels: dict[str, str]) -> dict[str, str]:
    """Labels of the pods of one attempt, of its `stage_labels`."""
    return {name: labels[name] for name in (RUN_UID, ITERATION, STAGE, ATTEMPT)}


def short_digest(digest: str) -> str:
    """The first 16 hex digits, which fit into a label."""
    return digest.removeprefix("sha256:")[:16]


def metadata(run: IterativePPORun, name: str, labels: dict[str, str], annotations: dict[str, str]) -> ObjectMeta:
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
