"""Journals of gateways that come no more: which claims are theirs, and the Job that brings events from one
into the bucket.

A claim that is being deleted stays while there is a pod that has it, and the Job is the claim's. So a Job at work ends
its work even where the run is deleted; then Kubernetes deletes first the Job, then the claim.
"""

from ippo_operator.manifests import identity
from ippo_operator.manifests.gateway import (
    JOURNAL,
    GatewayContext,
    log_arguments,
    own_credentials,
    pod_context,
    with_journal,
)
from ippo_operator.manifests.pods import pod_template
from ippo_operator.manifests.types import Object, PodSpec

LEFT_JOURNAL = "left-journal"
"""The component of these Jobs and their pods."""
_RESTARTS = 2**31 - 1
"""A claim is not given up."""
_KEPT_SECONDS = 30
"""After its end. The operator has seen it by then, or has it done again, which does no harm."""


def ordinal(context: GatewayContext, claim: str) -> int | None:
    """Of which gateway a claim of that name is; None for any other claim."""
    before, _, number = claim.rpartition("-")
    return int(number) if before == f"{JOURNAL}-{context.set_name}" and number.isdecimal() else None


def put_job_name(context: GatewayContext, number: int) -> str:
    """Of the Job of the gateway with that ordinal."""
    return f"{context.set_name}-{number}-put"


def put_job(context: GatewayContext, claim: Object, number: int) -> Object:
    """Brings into the bucket what a gateway left, and ends well once nothing is left.

    Args:
        context: of the gateways.
        claim: as it is; its metadata are enough.
        number: the gateway's ordinal.
    """
    run, pod, labels = context.run, pod_context(context), identity.run_labels(context.run, LEFT_JOURNAL)
    command = ["python", "-m", "ippo_trainer.gateway.put", *log_arguments(context)]
    name = str(claim["metadata"]["name"])
    containers: PodSpec = {
        "restartPolicy": "OnFailure",
        "containers": [with_journal(context, pod, LEFT_JOURNAL, command)],
        "volumes": [{"name": JOURNAL, "persistentVolumeClaim": {"claimName": name}}, *own_credentials(context)],
    }
    template = pod_template(pod, labels, identity.selector(run, LEFT_JOURNAL), containers)
    metadata = identity.metadata(run, put_job_name(context, number), labels, {})
    owner = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": name, "uid": claim["metadata"]["uid"]}
    metadata["ownerReferences"] = [owner | {"controller": True}]
    spec = {
        "backoffLimit": _RESTARTS,
        "podReplacementPolicy": "Failed",
        "ttlSecondsAfterFinished": _KEPT_SECONDS,
        "template": template,
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
