"""Pods, and processes of a pod, that run one stage together: where they meet, and the program that starts them.

Pod 0 of an Indexed Job has the host name <job>-0, and below a headless Service of the Job's name an address.
"""

from ippo_trainer.contract.command_line import RENDEZVOUS_PORT
from ippo_trainer.contract.stages import IMPROVE

from ippo_operator.api.pods import StagePods
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.manifests import identity
from ippo_operator.manifests.types import Object, ObjectMeta
from ippo_operator.plan.types import JobIntent

GPU = "nvidia.com/gpu"
SHARED_MEMORY = "1Gi"
"""Of pods with several GPUs, whose processes exchange tensors there: the runtime's 64 MiB are too little."""


def nodes(run: IterativePPORun, intent: JobIntent) -> int:
    """How many pods run the stage together."""
    return run.spec.pods.improve.nodes if intent.spec.stage == IMPROVE else 1


def processes(intent: JobIntent, settings: StagePods) -> int:
    """How many processes of each pod run the stage together: one for each GPU."""
    amount = str((settings.resources.requests | settings.resources.limits).get(GPU, ""))
    return max(1, int(amount)) if intent.spec.stage == IMPROVE and amount.isdecimal() else 1


def program(run: IterativePPORun, intent: JobIntent, settings: StagePods) -> list[str]:
    """What a pod of the stage starts; the stage's own options follow."""
    together, local = nodes(run, intent), processes(intent, settings)
    if together == local == 1:
        return ["ippo-stage", intent.spec.stage]
    command = ["python", "-m", "ippo_trainer.stages.improve_ranks", "--processes", str(local)]
    if together > 1:
        command += ["--nodes", str(together), "--master", f"{intent.name}-0.{intent.name}"]
        command += ["--port", str(RENDEZVOUS_PORT)]
    return command


def with_shared_memory(intent: JobIntent, settings: StagePods, vllm: bool = False) -> StagePods:
    """The settings, with room for the processes of a pod, or of vLLM, to exchange tensors, unless they have it."""
    if (processes(intent, settings) == 1 and not vllm) or settings.shared_memory is not None:
        return settings
    return settings.model_copy(update={"shared_memory": SHARED_MEMORY})


def service(metadata: ObjectMeta) -> Object:
    """The headless Service that gives each pod of the Job of that name its own address, before it is ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": identity.attempt_selector(metadata["labels"]),
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT}],
        },
    }
