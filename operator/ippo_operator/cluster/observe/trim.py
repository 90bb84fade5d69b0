"""What is kept of objects that tenants make, so that it is small however large they make them."""

from collections.abc import Mapping
from typing import Any

from ippo_operator.manifests.identity import BATCH, OURS

Object = Mapping[str, Any]
_TEXT = 4096
"""Characters. A termination message has at most 4096 bytes."""
_STATUSES, _CONDITIONS, _CONTAINERS = 64, 32, 64
_ANNOTATIONS, _SHORT = 64, 256
_NEEDED = (BATCH, OURS)
_METADATA = ("name", "uid", "creationTimestamp", "deletionTimestamp")


def pod(item: Object) -> dict[str, Any]:
    """A pod as far as it tells how it is doing: who made it, its node, its containers' names and its status."""
    metadata, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    short = {name: metadata[name] for name in _METADATA if name in metadata}
    short["ownerReferences"] = controllers(item)
    short["annotations"] = _short_ones(metadata.get("annotations") or {})
    return {
        "metadata": short,
        "spec": {
            "nodeName": spec.get("nodeName"),
            "initContainers": [_container(one) for one in (spec.get("initContainers") or ())[:_CONTAINERS]],
            "containers": [_container(one) for one in (spec.get("containers") or ())[:_CONTAINERS]],
        },
        "status": {name: status[name] for name in ("phase", "startTime") if name in status}
        | {name: cut(status[name]) for name in ("reason", "message") if name in status}
        | {
            "conditions": [_cut_values(one) for one in (status.get("conditions") or ())[:_CONDITIONS]],
            "initContainerStatuses": _statuses(status.get("initContainerStatuses")),
            "containerStatuses": _statuses(status.get("containerStatuses")),
        },
    }


def controllers(item: Object) -> list[dict[str, Any]]:
    """The owner that controls the object; there is at most one."""
    owners = item["metadata"].get("ownerReferences") or ()
    return [{"uid": owner.get("uid"), "controller": True} for owner in owners if owner.get("controller")]


def cut(text: Any) -> str:
    """The start of a text; its end too, which is where a log says what went wrong."""
    whole = str(text)
    return whole if len(whole) <= _TEXT else f"{whole[: _TEXT // 2]} … {whole[-_TEXT // 2 :]}"


def _short_ones(annotations: Mapping[str, str]) -> dict[str, str]:
    short = [(name, value) for name, value in annotations.items() if len(name) + len(value) <= _SHORT]
    return dict(sorted(short, key=lambda one: not one[0].startswith(_NEEDED))[:_ANNOTATIONS])


def _container(container: Object) -> dict[str, Any]:
    return {name: container[name] for name in ("name", "restartPolicy") if name in container}


def _statuses(statuses: Any) -> list[dict[str, Any]]:
    return [
        {name: one[name] for name in ("name", "image", "ready", "started", "restartCount") if name in one}
        | {
            name: {how: _cut_values(values) for how, values in (one.get(name) or {}).items()}
            for name in ("state", "lastState")
        }
        for one in (statuses or ())[:_STATUSES]
    ]


def _cut_values(values: Any) -> Any:
    return {name: cut(value) if isinstance(value, str) else value for name, value in (values or {}).items()}
