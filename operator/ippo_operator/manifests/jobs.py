"""One attempt of a stage: an immutable ConfigMap with its spec, and a Job that runs it once.

What a failed pod comes to; where the Job ends, the planner decides what is next:

| exit code | by itself    | in a disruption: drained, preempted, lost its node
| 64, 65    | the Job ends | the Job ends
| any other | the Job ends | another pod, but of pods that train together, which cannot be replaced one by one
"""

from typing import Any

from ippo_trainer.contract.command_line import POD_LOG
from ippo_trainer.contract.digests import canonical_json
from ippo_trainer.contract.errors import FINAL

from ippo_operator.api.pods import StagePods
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.manifests import identity, rendezvous
from ippo_operator.manifests.overrides import for_stage
from ippo_operator.manifests.platform import Platform
from ippo_operator.manifests.pods import WORK, PodContext, container, pod_template
from ippo_operator.manifests.settings import settings_annotations
from ippo_operator.manifests.types import Object, PodSpec, PodTemplate, VolumeMount
from ippo_operator.plan.types import JobIntent

CONTAINER = identity.STAGE_COMPONENT
SPEC = "/ippo/spec"
SPEC_FILE = "spec.json"
GRACE_SECONDS = 60


def stage_config_map(run: IterativePPORun, intent: JobIntent) -> Object:
    """The frozen inputs of the attempt; named as its Job, owned by the run."""
    body = canonical_json(intent.spec.model_dump(mode="json", by_alias=True, exclude_none=True)).decode()
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(run, intent),
        "immutable": True,
        "data": {SPEC_FILE: body},
    }


def stage_job(run: IterativePPORun, intent: JobIntent, platform: Platform) -> Object:
    """The attempt's Job. Create its ConfigMap first, and the Service if `stage_service` makes one."""
    together = rendezvous.nodes(run, intent)
    pods = intent.shards or together
    spec: dict[str, Any] = {
        "parallelism": pods,
        "completions": pods,
        "completionMode": "NonIndexed" if intent.shards is None and together == 1 else "Indexed",
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",  # never two pods of one index at once
        "podFailurePolicy": {"rules": _rules(replaceable=together == 1)},
        "template": _template(run, intent, platform),
    }
    metadata = _metadata(run, intent)
    queue = run.spec.queue
    if queue is not None:
        spec["suspend"] = True  # Kueue sets it to false when there is quota; nobody else does
        metadata["labels"][identity.QUEUE_NAME] = queue.local_queue_name
        if queue.priority_class_name is not None:
            metadata["labels"][identity.PRIORITY_CLASS] = queue.priority_class_name
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def stage_service(run: IterativePPORun, intent: JobIntent) -> Object | None:
    """The headless Service of pods that train together; None where a stage needs none."""
    return rendezvous.service(_metadata(run, intent)) if rendezvous.nodes(run, intent) > 1 else None


def _metadata(run: IterativePPORun, intent: JobIntent) -> Any:
    annotations = {identity.INPUT_DIGEST: intent.spec.input_digest()} | settings_annotations(run, intent.spec.stage)
    return identity.metadata(run, intent.name, identity.stage_labels(run, intent.spec), annotations)


def _rules(replaceable: bool) -> list[dict[str, Any]]:
    never_again = {"containerName": CONTAINER, "operator": "In", "values": [*FINAL]}
    disrupted = [{"type": "DisruptionTarget", "status": "True"}]
    rules: list[dict[str, Any]] = [{"action": "FailJob", "onExitCodes": never_again}]
    return [*rules, {"action": "Ignore", "onPodConditions": disrupted}] if replaceable else rules


def _template(run: IterativePPORun, intent: JobIntent, platform: Platform) -> PodTemplate:
    vllm = intent.spec.samples_with_vllm()
    settings = rendezvous.with_shared_memory(intent, for_stage(run.spec.pods, intent.spec.stage), vllm)
    mount: VolumeMount = {"name": "ippo-spec", "mountPath": SPEC, "readOnly": True}
    command = rendezvous.program(run, intent, settings)
    command += ["--spec", f"{SPEC}/{SPEC_FILE}", "--work-dir", WORK, "--termination-log", POD_LOG]
    image = settings.image or (platform.serve_image if vllm else "") or platform.image
    context = PodContext(run, platform, settings)
    labels = identity.stage_labels(run, intent.spec)
    selector = identity.attempt_selector(labels)
    containers: PodSpec = {
        "restartPolicy": "Never",
        "containers": [container(context, CONTAINER, image, command, [mount])],
        "volumes": [{"name": "ippo-spec", "configMap": {"name": intent.name}}],
    }
    template = pod_template(context, labels, selector, containers)
    _limit(template, settings)
    if rendezvous.nodes(run, intent) > 1:
        template["spec"]["subdomain"] = intent.name  # of the Service: <job>-0.<job> is the pod to meet at
    return template


def _limit(template: PodTemplate, settings: StagePods) -> None:
    """The deadline is the pod's: the Job's would count the time in which its pods wait for a node."""
    grace = settings.termination_grace_period_seconds
    template["spec"]["terminationGracePeriodSeconds"] = GRACE_SECONDS if grace is None else grace
    if settings.active_deadline_seconds is not None:
        template["spec"]["activeDeadlineSeconds"] = settings.active_deadline_seconds
