"""The Deployment and the Service of a policy: of the promoted one, and of a candidate under test.

A server never starts with files that are not the policy's: an init container fetches them by key and digest and
verifies every one. Whoever changes the policy changes the pod template, so Kubernetes rolls it out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from ippo_trainer.contract.digests import NO_DIGEST, digest_of
from ippo_trainer.contract.layout import SERVED
from ippo_trainer.contract.spec import ArtifactRef, Digest, StoreLocation
from ippo_trainer.contract.variables import BASE_CACHE, POLICY_DIGEST

from ippo_operator.api.pods import PodSettings
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.run_sections import Serve
from ippo_operator.api.status import DeployedPolicy
from ippo_operator.manifests import identity
from ippo_operator.manifests.overrides import for_servers, without_devices
from ippo_operator.manifests.platform import Platform
from ippo_operator.manifests.pods import (
    PodContext,
    container,
    credentials_volume,
    mount_credentials,
    pod_template,
)
from ippo_operator.manifests.rendezvous import SHARED_MEMORY
from ippo_operator.manifests.types import Container, Object, PodSpec, PodTemplate, VolumeMount
from ippo_operator.plan.names import CANDIDATE, companion_name

SERVER = "server"
"""The container, and the component of the promoted policy's pods."""
FETCH = "fetch"
POLICY = "/ippo/policy"
PORT = "http"
_LOG_KEYS = "ippo-log-s3"
_PROBE_SECONDS = 5
_START_PROBES = 120
"""So many until the program answers at all, which it does while it loads. The roll-out's deadline is another number: a
change of that one must not replace servers."""
_DRAIN: dict[str, Any] = {"preStop": {"sleep": {"seconds": 5}}}
"""Requests still arrive until every node knows that a pod goes away."""
SURGE: dict[str, Any] = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
"""Of a Deployment that loses no request."""
_GRACE_SECONDS = 60
OTHERS_FIELDS = {
    "ConfigMap": ("metadata",),
    "Deployment": ("metadata", "spec.replicas", "spec.template.metadata"),
    "StatefulSet": ("metadata", "spec.replicas", "spec.template.metadata"),
    "Service": ("metadata", "spec.clusterIP", "spec.clusterIPs", "spec.ipFamilies", "spec.ipFamilyPolicy"),
}
"""What others may write into kept objects, with all below, unless it is what we apply; all else is taken out again.
An autoscaler's number, labels and annotations (those of a restart and of meshes too), the cluster's addresses."""
_OLD_REVISIONS = 10
"""So that the last servers that got ready can still be found after a few others were tried."""


class NoServerImageError(ValueError):
    """Neither the run nor the operator names an image of the servers."""


@dataclass(frozen=True)
class ServingContext:
    """What servers of a run are made from, the policy apart.

    Args:
        run: who owns them.
        serve: the run's section.
        store: where the run's artifacts are.
        platform: the operator's defaults.
        share: of conversations that they get; None for those of the promoted policy.
    """

    run: IterativePPORun
    serve: Serve
    store: StoreLocation
    platform: Platform
    share: float | None = None

    @property
    def component(self) -> str:
        """What tells these servers' pods from others of the run."""
        return SERVER if self.share is None else CANDIDATE

    @property
    def name(self) -> str:
        """Of their Deployment and their Service."""
        run = self.run.metadata.name
        return run if self.share is None else companion_name(run, CANDIDATE)

    @property
    def replicas(self) -> int:
        """Servers; of a candidate as many as its share of conversations takes."""
        return self.serve.replicas if self.share is None else max(1, ceil(self.serve.replicas * self.share))


def serving_deployment(context: ServingContext, policy: DeployedPolicy, template: PodTemplate | None = None) -> Object:
    """Servers of one policy. Apply it server-side: an autoscaler or a human may own other fields.

    Args:
        context: of the servers.
        policy: what to serve: the promoted policy, or the one before it in a rollback.
        template: of the pods, where it is not what the spec asks for now: in a rollback.

    Raises:
        NoServerImageError: no image of the servers is known.
    """
    run, serve = context.run, context.serve
    labels = identity.run_labels(run, context.component)
    annotations = _about(policy) | {identity.REPLICAS: str(context.replicas)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": identity.metadata(run, context.name, labels, annotations),
        "spec": {
            "replicas": context.replicas,
            "selector": {"matchLabels": identity.selector(run, context.component)},
            "strategy": {"type": "Recreate"} if serve.strategy == "Recreate" else SURGE,
            "progressDeadlineSeconds": serve.progress_deadline_seconds,
            "revisionHistoryLimit": _OLD_REVISIONS,
            "template": template or _whole_template(context, policy),
        },
    }


def settings_digest(context: ServingContext) -> Digest:
    """Of the servers' pod template, the policy apart: what is not the policy's fault if they do not get ready.

    Raises:
        NoServerImageError: no image of the servers is known.
    """
    nothing = DeployedPolicy(iteration=0, artifact=ArtifactRef(key="-", digest=NO_DIGEST))
    return digest_of(_template(context, nothing))


def serving_service(context: ServingContext) -> Object:
    """One address for the servers that are ready."""
    return service(context.run, context.name, context.component, {PORT: context.serve.port})


def service(run: IterativePPORun, name: str, component: str, ports: Mapping[str, int]) -> Object:
    """One address, in the cluster only, for those pods of a component that are ready.

    Args:
        run: who owns it.
        name: of the Service.
        component: of the pods.
        ports: of the Service, by their names, which are those of the pods' ports, too.
    """
    entries = [{"name": port, "port": number, "targetPort": port, "protocol": "TCP"} for port, number in ports.items()]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": identity.metadata(run, name, identity.run_labels(run, component), {}),
        "spec": {"type": "ClusterIP", "selector": identity.selector(run, component), "ports": entries},
    }


def _about(policy: DeployedPolicy) -> dict[str, str]:
    return {identity.POLICY_DIGEST: policy.artifact.digest, identity.ITERATION: str(policy.iteration)}


def _whole_template(context: ServingContext, policy: DeployedPolicy) -> PodTemplate:
    template = _template(context, policy)
    template["metadata"]["annotations"][identity.SETTINGS_DIGEST] = settings_digest(context)
    return template


def _template(context: ServingContext, policy: DeployedPolicy) -> PodTemplate:
    run = context.run
    pod = PodContext(run, context.platform, _with_shared_memory(context.serve, for_servers(run.spec.pods)))
    containers: PodSpec = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "initContainers": [_fetch(context, pod, policy)],
        "containers": [_server(context, pod, policy)],
        "volumes": [{"name": "ippo-policy", "emptyDir": {}}],
    }
    secret = _log_secret(context.serve)
    if secret is not None:
        containers["volumes"].append(credentials_volume(_LOG_KEYS, secret))
    labels, selector = identity.run_labels(run, context.component), identity.selector(run, context.component)
    template = pod_template(pod, labels, selector, containers)
    template["metadata"]["annotations"] = template["metadata"].get("annotations", {}) | _about(policy)
    return template


def _with_shared_memory(serve: Serve, settings: PodSettings) -> PodSettings:
    """With a /dev/shm in which vLLM's processes exchange what they make; the runtime's 64 MiB are too few for any."""
    if serve.engine != "VLLM" or settings.shared_memory is not None:
        return settings
    return settings.model_copy(update={"shared_memory": SHARED_MEMORY})


def _fetch(context: ServingContext, pod: PodContext, policy: DeployedPolicy) -> Container:
    """Runs in the stages' image, with the servers' CPU and memory but none of their GPUs."""
    place = context.store.model_dump_json(by_alias=True, exclude_none=True)
    command = ["python", "-m", "ippo_trainer.store.fetch", "--store", place, "--kind", "policy"]
    command += ["--key", policy.artifact.key, "--digest", policy.artifact.digest, "--to", f"{POLICY}/model"]
    if context.serve.engine == "Transformers":  # it holds all weights in the container's memory
        command.append("--fits-memory")
    plain = without_devices(pod.settings.resources)
    image = context.run.spec.pods.common.image or context.platform.image
    mount: VolumeMount = {"name": "ippo-policy", "mountPath": POLICY}
    pod = replace(pod, settings=pod.settings.model_copy(update={"resources": plain}))
    return container(pod, FETCH, image, command, [mount])


def _server(context: ServingContext, pod: PodContext, policy: DeployedPolicy) -> Container:
    run, serve = context.run, context.serve
    command = [*context.platform.serve_command, "--policy", f"{POLICY}/model", "--port", str(serve.port)]
    command += ["--engine", serve.engine, "--name", run.metadata.name]
    command += ["--max-tokens", str(serve.max_tokens or run.spec.policy.max_new_tokens)]
    if serve.max_waiting is not None:
        command += ["--max-waiting", str(serve.max_waiting)]
    for origin in serve.allowed_origins or ():
        command += ["--allow-origin", origin]
    if serve.log is not None:
        command += ["--log", context.store.below(SERVED).model_dump_json(by_alias=True, exclude_none=True)]
    mount: VolumeMount = {"name": "ippo-policy", "mountPath": POLICY, "readOnly": True}
    # Whoever takes over a server that anybody may ask must not find keys of the whole bucket there, unless it logs.
    secret = _log_secret(serve)
    whole = serve.log is not None and secret is None
    server = container(pod, SERVER, _image(context, pod), command, [mount], credentials=whole)
    if secret is not None:
        mount_credentials(server, _LOG_KEYS)
    server["env"].append({"name": POLICY_DIGEST, "value": policy.artifact.digest})
    _only_reads_bases(server)
    return answering(server, {PORT: serve.port}, _START_PROBES)


def _only_reads_bases(server: Container) -> None:
    """Others' pods take bases from the volume: a program that anybody may ask does not write there."""
    folders = [variable.get("value") or "" for variable in server["env"] if variable["name"] == BASE_CACHE]
    for mount in server["volumeMounts"]:
        if any(f"{folder}/".startswith(f"{mount['mountPath'].rstrip('/')}/") for folder in folders):
            mount["readOnly"] = True


def _log_secret(serve: Serve) -> str | None:
    """The Secret of servers alone, of which they get keys for their log."""
    return serve.log.credentials_secret_name if serve.log is not None else None


def _image(context: ServingContext, pod: PodContext) -> str:
    if context.serve.engine == "Transformers":
        return pod.settings.image or context.run.spec.pods.common.image or context.platform.image
    image = pod.settings.image or context.platform.serve_image
    if not image:
        raise NoServerImageError(
            "no image with vLLM is known; name one in spec.pods.serve.image, start the operator with --serve-image, or "
            "set spec.serve.engine to Transformers"
        )
    return image


def answering(server: Container, ports: Mapping[str, int], start_probes: int) -> Container:
    """The container of a program that answers requests at these ports, by name, within so many probes of its start."""
    server["ports"] = [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports.items()]
    server["startupProbe"] = _probe("/healthz", start_probes)
    server["readinessProbe"] = _probe("/readyz", 2)
    server["livenessProbe"] = _probe("/healthz", 6)
    server["lifecycle"] = _DRAIN
    return server


def _probe(path: str, failures: int) -> dict[str, Any]:
    """A GET every few seconds; so many of them in a row must fail."""
    request = {"path": path, "port": PORT, "scheme": "HTTP"}
    return {"httpGet": request, "periodSeconds": _PROBE_SECONDS, "timeoutSeconds": 3, "failureThreshold": failures}
