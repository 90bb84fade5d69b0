"""The gateway of a run with live customers: a Deployment, a Service, and the ConfigMap that says where policies are.
With `journalVolume` a StatefulSet stands in the Deployment's place, for each of whose pods there is a volume.

What changes while it works, the routes, is in the ConfigMap: the kubelet renews the file, and no pod is replaced.
"""

from dataclasses import dataclass, replace
from typing import Any

from ippo_trainer.contract.layout import LIVE
from ippo_trainer.contract.spec import StoreLocation

from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.run_sections import Gateway, JournalVolume
from ippo_operator.manifests import identity
from ippo_operator.manifests.overrides import for_gateways
from ippo_operator.manifests.pods import (
    GROUP_READABLE,
    PodContext,
    container,
    credentials_volume,
    mount_credentials,
    pod_template,
)
from ippo_operator.manifests.routes import Addresses, routes, routes_text
from ippo_operator.manifests.serving import PORT, SURGE, ServingContext, answering, service
from ippo_operator.manifests.types import Container, Object, PodSpec, PodTemplate
from ippo_operator.plan.names import GATEWAY, MAX_SET_NAME, companion_name
from ippo_operator.plan.types import LiveIntent

INTERNAL = "internal"
"""The port of reports and metrics, which no application needs."""
ROUTES_FILE = "routes.json"
JOURNAL = "ippo-journal"
"""The volume."""
JOURNAL_FOLDER = "/ippo/journal"
_ROUTES, _KEYS = "/ippo/routes", "/ippo/keys"
_KEYS_KEY = "keys"
_OWN_CREDENTIALS = "ippo-live-s3"
_INTERNAL_PORTS = (9090, 9091)
_START_PROBES = 60
_GRACE_SECONDS = 300
_GATEWAY_SECONDS = _GRACE_SECONDS - 20
"""Until what is in the journal is in the bucket: also while a bucket is away for some minutes."""
_PROGRESS_SECONDS = 600
_OLD_REVISIONS = 2


@dataclass(frozen=True)
class GatewayContext:
    """What the gateway of a run is made from, the routes apart.

    Args:
        servers: of the run's promoted policy.
    """

    servers: ServingContext

    @property
    def run(self) -> IterativePPORun:
        """Who owns it."""
        return self.servers.run

    @property
    def section(self) -> Gateway:
        """Of the spec; the defaults where it has none."""
        return self.run.spec.gateway or Gateway()

    @property
    def name(self) -> str:
        """Of all objects but a StatefulSet."""
        return companion_name(self.run.metadata.name, GATEWAY)

    @property
    def set_name(self) -> str:
        """Of the StatefulSet."""
        return companion_name(self.run.metadata.name, GATEWAY, MAX_SET_NAME)

    @property
    def internal_port(self) -> int:
        """Another one than that of requests."""
        return next(port for port in _INTERNAL_PORTS if port != self.section.port)

    @property
    def store(self) -> StoreLocation:
        """Where gateways log."""
        return self.servers.store.below(LIVE)


def gateway_config_map(context: GatewayContext, live: LiveIntent) -> Object:
    """The routes, as a file."""
    addresses = Addresses(active=_url(context.servers), candidate=_url(candidate_of(context.servers, live)))
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": identity.metadata(context.run, context.name, identity.run_labels(context.run, GATEWAY), {}),
        "data": {ROUTES_FILE: routes_text(routes(context.run, live, addresses))},
    }


def gateway_deployment(context: GatewayContext) -> Object:
    """Gateways. Apply it server-side: an autoscaler or a human may own other fields."""
    template = _template(context)
    template["spec"]["volumes"].append({"name": JOURNAL, "emptyDir": {}})
    more = {"strategy": SURGE, "progressDeadlineSeconds": _PROGRESS_SECONDS, "template": template}
    return _replicated(context, "Deployment", context.name, more)


def gateway_stateful_set(context: GatewayContext, volume: JournalVolume) -> Object:
    """Gateways whose journals outlive their pods. Apply it server-side, as the Deployment.

    Who deletes claims is whoever brought into the bucket what was left on them; with the run they go in any case.
    """
    more = {
        "serviceName": context.name,
        "podManagementPolicy": "Parallel",  # they share nothing
        "updateStrategy": {"type": "RollingUpdate"},
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
        "volumeClaimTemplates": [_claim(context, volume)],
        "template": _template(context),
    }
    return _replicated(context, "StatefulSet", context.set_name, more)


def _replicated(context: GatewayContext, kind: str, name: str, more: dict[str, Any]) -> Object:
    run, section = context.run, context.section
    annotations = {identity.REPLICAS: str(section.replicas)}
    spec = {
        "replicas": section.replicas,
        "selector": {"matchLabels": identity.selector(run, GATEWAY)},
        "revisionHistoryLimit": _OLD_REVISIONS,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": identity.metadata(run, name, identity.run_labels(run, GATEWAY), annotations),
        "spec": spec | more,
    }


def _claim(context: GatewayContext, volume: JournalVolume) -> Object:
    """Owned by the run, not by the StatefulSet, which may go while events are left."""
    own = identity.metadata(context.run, JOURNAL, identity.run_labels(context.run, GATEWAY), {})
    [owner] = own["ownerReferences"]
    owners = [{name: value for name, value in owner.items() if name != "controller"}]
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": volume.storage}},
    }
    if volume.storage_class_name is not None:
        spec["storageClassName"] = volume.storage_class_name
    return {"metadata": {"name": JOURNAL, "labels": own["labels"], "ownerReferences": owners}, "spec": spec}


def gateway_service(context: GatewayContext) -> Object:
    """One address for applications, and a port of it for the operator and whoever scrapes metrics."""
    return service(context.run, context.name, GATEWAY, _ports(context))


def candidate_of(servers: ServingContext, live: LiveIntent) -> ServingContext:
    """The servers of the candidate beside these; one of no conversations where there is none."""
    return replace(servers, share=float(live.canary.settings.share) if live.canary is not None else 0.0)


def _url(servers: ServingContext) -> str:
    """`.svc` is what NO_PROXY of clusters names."""
    return f"http://{servers.name}.{servers.run.metadata.namespace}.svc:{servers.serve.port}"


def _ports(context: GatewayContext) -> dict[str, int]:
    return {PORT: context.section.port, INTERNAL: context.internal_port}


def _template(context: GatewayContext) -> PodTemplate:
    run, section, pod = context.run, context.section, pod_context(context)
    containers: PodSpec = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "containers": [_gateway(context, pod)],
        "volumes": [{"name": "ippo-routes", "configMap": {"name": context.name}}, *own_credentials(context)],
    }
    if section.keys_secret_name is not None:
        containers["volumes"].append(_keys_volume(section.keys_secret_name))
    return pod_template(pod, identity.run_labels(run, GATEWAY), identity.selector(run, GATEWAY), containers)


def pod_context(context: GatewayContext) -> PodContext:
    """Of all pods that have to do with the gateway."""
    settings = for_gateways(context.run.spec.pods, context.section.resources)
    return PodContext(context.run, context.servers.platform, settings)


def own_credentials(context: GatewayContext) -> list[dict[str, Any]]:
    """The volume of gateways' own credentials, where they have some."""
    secret = context.section.credentials_secret_name
    return [credentials_volume(_OWN_CREDENTIALS, secret)] if secret is not None else []


def _keys_volume(secret: str) -> dict[str, Any]:
    items = [{"key": _KEYS_KEY, "path": _KEYS_KEY}]
    return {"name": "ippo-keys", "secret": {"secretName": secret, "items": items, "defaultMode": GROUP_READABLE}}


def with_journal(context: GatewayContext, pod: PodContext, name: str, command: list[str]) -> Container:
    """A container in the stages' image that sees a journal and may write the log."""
    image = context.run.spec.pods.common.image or context.servers.platform.image
    own = context.section.credentials_secret_name is not None
    entry = container(pod, name, image, command, [{"name": JOURNAL, "mountPath": JOURNAL_FOLDER}], credentials=not own)
    if own:
        mount_credentials(entry, _OWN_CREDENTIALS)
    return entry


def log_arguments(context: GatewayContext) -> list[str]:
    """Where the journal is, and where its events go."""
    log = context.store.model_dump_json(by_alias=True, exclude_none=True)
    return ["--journal", JOURNAL_FOLDER, "--log", log]


def _gateway(context: GatewayContext, pod: PodContext) -> Container:
    gateway = with_journal(context, pod, GATEWAY, _command(context))
    gateway["volumeMounts"].append({"name": "ippo-routes", "mountPath": _ROUTES, "readOnly": True})
    if context.section.keys_secret_name is not None:
        gateway["volumeMounts"].append({"name": "ippo-keys", "mountPath": _KEYS, "readOnly": True})
    return answering(gateway, _ports(context), _START_PROBES)


def _command(context: GatewayContext) -> list[str]:
    """Only the folder's mount is renewed, never a single file's."""
    section = context.section
    command = ["ippo-gateway", "--routes", f"{_ROUTES}/{ROUTES_FILE}", *log_arguments(context)]
    command += ["--port", str(section.port), "--internal-port", str(context.internal_port)]
    command += ["--grace-seconds", str(_GATEWAY_SECONDS)]
    if section.keys_secret_name is not None:
        command += ["--keys", f"{_KEYS}/{_KEYS_KEY}"]
    for flag, values in (("--allow-origin", section.allowed_origins), ("--redact", section.redact)):
        for value in values or ():
            command += [flag, value]
    for flag, number in (("--max-waiting", section.max_waiting), ("--journal-bytes", section.journal_bytes)):
        if number is not None:
            command += [flag, str(number)]
    return command
