"""The parts of Kubernetes objects that the builders make."""

from typing import Any, TypeAlias, TypedDict

Object: TypeAlias = dict[str, Any]
"""A whole object, as JSON."""


class ObjectMeta(TypedDict, total=False):
    """ObjectMeta."""

    name: str
    namespace: str
    labels: dict[str, str]
    annotations: dict[str, str]
    ownerReferences: list[dict[str, Any]]


class VolumeMount(TypedDict, total=False):
    """Where a container sees a volume."""

    name: str
    mountPath: str
    subPath: str
    readOnly: bool


class Container(TypedDict, total=False):
    """A container."""

    name: str
    image: str
    imagePullPolicy: str
    command: list[str]
    args: list[str]
    env: list[dict[str, Any]]
    ports: list[dict[str, Any]]
    resources: dict[str, Any]
    volumeMounts: list[VolumeMount]
    securityContext: dict[str, Any]
    terminationMessagePath: str
    terminationMessagePolicy: str
    startupProbe: dict[str, Any]
    readinessProbe: dict[str, Any]
    livenessProbe: dict[str, Any]
    lifecycle: dict[str, Any]


class PodSpec(TypedDict, total=False):
    """A pod's spec."""

    restartPolicy: str
    activeDeadlineSeconds: int
    terminationGracePeriodSeconds: int
    automountServiceAccountToken: bool
    serviceAccountName: str
    enableServiceLinks: bool
    securityContext: dict[str, Any]
    imagePullSecrets: list[dict[str, str]]
    nodeSelector: dict[str, str]
    tolerations: list[dict[str, Any]]
    affinity: dict[str, Any]
    topologySpreadConstraints: list[dict[str, Any]]
    runtimeClassName: str
    priorityClassName: str
    schedulerName: str
    subdomain: str
    initContainers: list[Container]
    containers: list[Container]
    volumes: list[dict[str, Any]]


class PodTemplate(TypedDict):
    """A pod template."""

    metadata: ObjectMeta
    spec: PodSpec
