"""The kinds of objects that the operator touches, and their paths."""

from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import quote

from ippo_operator.api.resource import GROUP, KIND, PLURAL, VERSION

Key: TypeAlias = tuple[str, str]
"""Namespace and name of a run."""


@dataclass(frozen=True)
class Resource:
    """A kind of namespaced object."""

    group: str
    """"" for the core group."""
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        """As in manifests, e.g. `batch/v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of a collection (all namespaces where `namespace` is None) or of one object."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{quote(namespace, safe='')}" if namespace is not None else ""
        parts = [self.plural, name and quote(name, safe=""), subresource]
        return f"{root}{scope}/" + "/".join(part for part in parts if part)


RUNS = Resource(GROUP, VERSION, PLURAL, KIND)
JOBS = Resource("batch", "v1", "jobs", "Job")
PODS = Resource("", "v1", "pods", "Pod")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
SERVICES = Resource("", "v1", "services", "Service")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
STATEFUL_SETS = Resource("apps", "v1", "statefulsets", "StatefulSet")
CLAIMS = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
REPLICA_SETS = Resource("apps", "v1", "replicasets", "ReplicaSet")
EVENTS = Resource("events.k8s.io", "v1", "events", "Event")
CORE_EVENTS = Resource("", "v1", "events", "Event")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")

_BY_KIND = {
    (r.api_version, r.kind): r
    for r in (RUNS, JOBS, PODS, CONFIG_MAPS, SERVICES, DEPLOYMENTS, STATEFUL_SETS, EVENTS, LEASES)
}


def resource_of(manifest: dict[str, object]) -> Resource:
    """The kind of a manifest; raises KeyError for one that the operator does not handle."""
    return _BY_KIND[str(manifest["apiVersion"]), str(manifest["kind"])]
