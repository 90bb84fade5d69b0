"""Rules between the fields of spec.pods."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from ippo_trainer.contract.variables import (
    COMPLETION_INDEX,
    CREDENTIALS_FILE,
    HOME,
    PREFIX,
    TEMPORARY,
    THREADS,
    VLLM_ARGUMENTS,
)

from ippo_operator.api.pods import EnvVar, Pods, PodSettings, Volume
from ippo_operator.api.problems import Problem, shown
from ippo_operator.api.resource import RunSpec
from ippo_operator.api.scheduling import Toleration

RESERVED_ENV = (COMPLETION_INDEX, CREDENTIALS_FILE, HOME, TEMPORARY, *THREADS)
RESERVED_FOLDERS = ("ippo", "tmp", "dev")
PROVIDED_MOUNT = rf"^/([.]?/)*([.]?$|({'|'.join(RESERVED_FOLDERS)})(/|$))"
"""Mount paths that are taken, in any spelling: `//ippo` and `/./ippo/` are `/ippo`. For Python and CEL alike."""
OWN_KEYS = (
    r"^(([a-z0-9.-]*[.])?ippo[.]dev|kueue[.]x-k8s[.]io|batch[.]kubernetes[.]io|"
    r"(container[.])?(apparmor|seccomp)[.]security[.](alpha|beta)[.]kubernetes[.]io)/|^app[.]kubernetes[.]io/component$"
)
"""Labels and annotations by which pods are found, or that the Job controller, spec.queue or the operator's security
settings decide on. For Python and CEL alike."""
TOPOLOGY_KEYS = "kueue.x-k8s.io/podset-"
"""What Kueue reads from pod templates and nobody else writes: topology and slices."""
NOT_YOURS = (
    "ippo.dev/…, kueue.x-k8s.io/… but podset-…, batch.kubernetes.io/…, app.kubernetes.io/component and security "
    "profiles are not yours to set"
)
SOURCES = {
    "persistent_volume_claim": "persistentVolumeClaim",
    "secret": "secret",
    "config_map": "configMap",
    "empty_dir": "emptyDir",
}


def problems(spec: RunSpec) -> list[Problem]:
    """Every rule that the pods' settings break."""
    return [
        problem
        for name, field in Pods.model_fields.items()
        for problem in _section(f"spec.pods.{field.alias}", getattr(spec.pods, name))
    ]


def _section(path: str, pods: PodSettings) -> Iterator[Problem]:
    yield from _unique(f"{path}.env", pods.env)
    yield from _unique(f"{path}.volumes", pods.volumes)
    for index, variable in enumerate(pods.env):
        yield from _variable(f"{path}.env[{index}]", variable)
    for index, toleration in enumerate(pods.tolerations or ()):
        yield from _toleration(f"{path}.tolerations[{index}]", toleration)
    for index, volume in enumerate(pods.volumes):
        yield from _volume(f"{path}.volumes[{index}]", volume)
    for name, labels in (("labels", pods.labels), ("annotations", pods.annotations)):
        yield from (Problem(f"{path}.{name}", f"given {shown(key)}; {NOT_YOURS}") for key in labels if is_own_key(key))


def is_own_key(key: str) -> bool:
    """Whether the value of this label or annotation is not the user's."""
    return re.match(OWN_KEYS, key) is not None and not key.startswith(TOPOLOGY_KEYS)


def _unique(path: str, items: Sequence[Any]) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, item in enumerate(items):
        if item.name in seen:
            yield Problem(f"{path}[{index}].name", f"{shown(item.name)} is given twice")
        seen.add(item.name)


def _variable(path: str, variable: EnvVar) -> Iterator[Problem]:
    prefixed = variable.name.startswith(PREFIX) and variable.name != VLLM_ARGUMENTS
    if prefixed or variable.name in RESERVED_ENV:
        yield Problem(f"{path}.name", f"{variable.name} is set by the operator")
    if (variable.value is None) == (variable.value_from is None):
        yield Problem(path, "allowed is exactly one of value and valueFrom")
    source = variable.value_from
    if source is not None and (source.secret_key_ref is None) == (source.config_map_key_ref is None):
        yield Problem(f"{path}.valueFrom", "allowed is exactly one of secretKeyRef and configMapKeyRef")


def _toleration(path: str, toleration: Toleration) -> Iterator[Problem]:
    if toleration.key is None and toleration.operator != "Exists":
        yield Problem(path, "without a key, operator must be Exists: every taint is tolerated")
    if toleration.value is not None and toleration.operator == "Exists":
        yield Problem(path, "operator Exists takes any value; leave value out")


def _volume(path: str, volume: Volume) -> Iterator[Problem]:
    given = [name for field, name in SOURCES.items() if getattr(volume, field) is not None]
    if len(given) != 1:
        yield Problem(
            path, f"given {' and '.join(given) or 'none'}, allowed is exactly one of {', '.join(SOURCES.values())}"
        )
    mount = volume.mount_path
    if re.match(PROVIDED_MOUNT, mount):
        yield Problem(f"{path}.mountPath", f"given {shown(mount)}, which the operator provides; take another folder")
    if ".." in mount.split("/") or ".." in volume.sub_path.split("/") or volume.sub_path.startswith("/"):
        yield Problem(path, "allowed are a mountPath and a relative subPath without ..")
