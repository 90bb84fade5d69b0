"""Pods that Pod Security's `restricted` lets pass: no privilege, no token, nothing writable but scratch space."""

from dataclasses import dataclass
from typing import Any

from ippo_trainer.contract.command_line import POD_LOG, SHARED_FOLDER
from ippo_trainer.contract.params import Model
from ippo_trainer.contract.variables import CREDENTIALS_FILE, HOME, TEMPORARY, THREADS
from pydantic.alias_generators import to_camel

from ippo_operator.api.pods import VOLUME_SOURCES, CommonPods, PodSettings, Volume
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.rules import is_own_key
from ippo_operator.manifests.platform import Platform
from ippo_operator.manifests.types import Container, ObjectMeta, PodSpec, PodTemplate, VolumeMount

WORK = "/ippo/work"
CREDENTIALS = "/ippo/s3"
CREDENTIALS_KEY = "credentials"
GROUP_READABLE = 0o440
_OWN = "ippo-"  # volumes of the operator; users' have another prefix
_NOTHING = (None, (), "")


@dataclass(frozen=True)
class PodContext:
    """What the containers of a pod have in common."""

    run: IterativePPORun
    platform: Platform
    settings: PodSettings
    """Merged from the run's sections of spec.pods."""


def pod_template(
    context: PodContext, labels: dict[str, str], selector: dict[str, str], containers: PodSpec
) -> PodTemplate:
    """A pod template.

    Args:
        context: of the pod.
        labels: the operator's own. Those that nobody is found by give way to the user's.
        selector: labels that the pods of this Job or Deployment share and no others have, to spread them.
        containers: what only this kind of pod has: containers, their volumes beyond scratch space, credentials and what
            the settings name, and what the kubelet does when one ends.
    """
    run, settings = context.run, context.settings
    spec: PodSpec = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": _security(context.platform),
        **containers,
        "volumes": [*_volumes(run, settings), *containers["volumes"]],
    }
    if run.spec.service_account_name is not None:
        spec["serviceAccountName"] = run.spec.service_account_name
    _place(spec, settings)
    _place_all(spec, run.spec.pods.common, selector)
    own = {key: value for key, value in labels.items() if is_own_key(key)}
    metadata: ObjectMeta = {"labels": labels | settings.labels | own}
    if settings.annotations:
        metadata["annotations"] = dict(settings.annotations)
    return {"metadata": metadata, "spec": spec}


def container(
    context: PodContext,
    name: str,
    image: str,
    command: list[str],
    mounts: list[VolumeMount],
    credentials: bool = True,
) -> Container:
    """A container with scratch space, the bucket's credentials if it needs them, and what the settings name."""
    run, settings = context.run, context.settings
    built: Container = {
        "name": name,
        "image": image,
        "command": command,
        "env": _environment(run, settings, credentials),
        "resources": _resources(settings),
        "volumeMounts": [*_mounts(run, settings, credentials), *mounts],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": POD_LOG,
        # A process that is killed writes no message; the end of its log then says what it was about.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    pull = settings.image_pull_policy or context.platform.image_pull_policy
    if pull is not None:
        built["imagePullPolicy"] = pull
    return built


def _security(platform: Platform) -> dict[str, Any]:
    context: dict[str, Any] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    if platform.user is not None:
        user = platform.user
        context |= {"runAsUser": user, "runAsGroup": user, "fsGroup": user, "fsGroupChangePolicy": "OnRootMismatch"}
    return context


def _place(spec: PodSpec, settings: PodSettings) -> None:
    """Where pods of this kind may run."""
    if settings.node_selector:
        spec["nodeSelector"] = dict(settings.node_selector)
    if settings.tolerations:
        spec["tolerations"] = [_plain(toleration) for toleration in settings.tolerations]
    if settings.runtime_class_name is not None:
        spec["runtimeClassName"] = settings.runtime_class_name
    if settings.scheduler_name is not None:
        spec["schedulerName"] = settings.scheduler_name
    if settings.priority_class_name is not None:
        spec["priorityClassName"] = settings.priority_class_name


def _place_all(spec: PodSpec, common: CommonPods, selector: dict[str, str]) -> None:
    """Where any pod of the run may run."""
    if common.affinity is not None:
        spec["affinity"] = _plain(common.affinity)
    if common.topology_spread_constraints:
        own = {"labelSelector": {"matchLabels": selector}}
        spec["topologySpreadConstraints"] = [_plain(spread) | own for spread in common.topology_spread_constraints]
    if common.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in common.image_pull_secrets]


def _environment(run: IterativePPORun, settings: PodSettings, credentials: bool) -> list[dict[str, Any]]:
    values = {HOME: WORK, TEMPORARY: WORK, **THREADS}
    if credentials and _credentials(run) is not None:
        values[CREDENTIALS_FILE] = f"{CREDENTIALS}/{CREDENTIALS_KEY}"
    own = [{"name": name, "value": value} for name, value in values.items()]
    return own + [_plain(variable) for variable in settings.env]


def _resources(settings: PodSettings) -> dict[str, Any]:
    both = {"requests": settings.resources.requests, "limits": settings.resources.limits}
    return {name: {key: str(amount) for key, amount in amounts.items()} for name, amounts in both.items() if amounts}


def _credentials(run: IterativePPORun) -> str | None:
    return run.spec.artifacts.s3.credentials_secret_name if run.spec.artifacts is not None else None


def _volumes(run: IterativePPORun, settings: PodSettings) -> list[dict[str, Any]]:
    work = {} if settings.work_size is None else {"sizeLimit": settings.work_size}
    volumes: list[dict[str, Any]] = [
        {"name": f"{_OWN}work", "emptyDir": work},
        {"name": f"{_OWN}tmp", "emptyDir": {}},
    ]
    if settings.shared_memory is not None:
        memory = {"medium": "Memory", "sizeLimit": settings.shared_memory}
        volumes.append({"name": f"{_OWN}shm", "emptyDir": memory})
    secret = _credentials(run)
    if secret is not None:
        volumes.append(credentials_volume(f"{_OWN}s3", secret))
    return volumes + [_volume(volume) for volume in settings.volumes]


def credentials_volume(name: str, secret: str) -> dict[str, Any]:
    """Of an AWS credentials file in a Secret, and no other of its keys."""
    items = [{"key": CREDENTIALS_KEY, "path": CREDENTIALS_KEY}]
    return {"name": name, "secret": {"secretName": secret, "items": items, "defaultMode": GROUP_READABLE}}


def mount_credentials(entry: Container, volume: str) -> None:
    """Gives a container the AWS credentials file in that volume."""
    entry["volumeMounts"].append({"name": volume, "mountPath": CREDENTIALS, "readOnly": True})
    entry["env"].append({"name": CREDENTIALS_FILE, "value": f"{CREDENTIALS}/{CREDENTIALS_KEY}"})


def _volume(volume: Volume) -> dict[str, Any]:
    fields, sources = _plain(volume), map(to_camel, VOLUME_SOURCES)
    return {"name": f"user-{volume.name}", **{name: fields[name] for name in sources if name in fields}}


def _mounts(run: IterativePPORun, settings: PodSettings, credentials: bool) -> list[VolumeMount]:
    mounts: list[VolumeMount] = [
        {"name": f"{_OWN}work", "mountPath": WORK},
        {"name": f"{_OWN}tmp", "mountPath": "/tmp"},  # noqa: S108 - the pod's own
    ]
    if settings.shared_memory is not None:
        mounts.append({"name": f"{_OWN}shm", "mountPath": SHARED_FOLDER})
    if credentials and _credentials(run) is not None:
        mounts.append({"name": f"{_OWN}s3", "mountPath": CREDENTIALS, "readOnly": True})
    return mounts + [_mount(volume) for volume in settings.volumes]


def _mount(volume: Volume) -> VolumeMount:
    # Scratch space that may only be read would be of no use.
    read_only = volume.read_only and volume.empty_dir is None
    mount: VolumeMount = {"name": f"user-{volume.name}", "mountPath": volume.mount_path, "readOnly": read_only}
    if volume.sub_path:
        mount["subPath"] = volume.sub_path
    return mount


def _plain(value: Any) -> Any:
    """As JSON, without what was not given: Kubernetes has its own defaults. An empty text that was given stays: a
    selector without it would select everything."""
    if isinstance(value, Model):
        fields = [(field, getattr(value, name)) for name, field in type(value).model_fields.items()]
        return {
            field.alias: _plain(entry) for field, entry in fields if entry not in _NOTHING or entry != field.default
        }
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value
