"""Gateways with volumes under Kubernetes' own controllers: of StatefulSets, claims, volumes and garbage. A stand-in
plays the kubelet."""

from pathlib import Path
from typing import Any

from ippo_operator.manifests import identity
from ippo_operator.manifests.left_journals import LEFT_JOURNAL

from tests.kit.api_runs import create_run
from tests.kit.control_plane import Api
from tests.kit.kubelet import JOB_NAME, Kubelet, Pod, namespace_of
from tests.kit.operator_process import Operator
from tests.kit.real_controllers import Cluster
from tests.kit.toy_controllers import APPS
from tests.kit.toy_gateway import LIVE
from tests.kit.waiting import until

NAMESPACE = "shops"
CORE = f"/api/v1/namespaces/{NAMESPACE}"
CLAIMS = f"{CORE}/persistentvolumeclaims"
KINDS = {kind: f"{APPS}/namespaces/{NAMESPACE}/{kind}/small-gateway" for kind in ("deployments", "statefulsets")}
CLASS = "test-disk"
VOLUME = {"storage": "2Gi", "storageClassName": CLASS}


class Node(Kubelet):
    """Also runs servers and gateways, which are ready at once, and what empties volumes, while there is a bucket."""

    bucket = True

    def _look_at(self, pod: Pod) -> None:
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        at_work = pod["spec"].get("nodeName") and "deletionTimestamp" not in metadata
        labels = metadata.get("labels") or {}
        if not at_work or (JOB_NAME in labels and labels[identity.COMPONENT] != LEFT_JOURNAL):
            super()._look_at(pod)
        elif labels.get(identity.COMPONENT) == LEFT_JOURNAL:
            phase = "Succeeded" if self.bucket else "Running"
            self._api.merge(f"{path}/status", {"status": {"phase": phase}})
        elif pod["status"].get("phase") == "Pending":
            conditions = [{"type": kind, "status": "True"} for kind in ("PodScheduled", "ContainersReady", "Ready")]
            address = {"podIP": "10.244.0.5", "podIPs": [{"ip": "10.244.0.5"}]}
            self._api.merge(f"{path}/status", {"status": {"phase": "Running", "conditions": conditions, **address}})


def make_disks(api: Api, count: int) -> None:
    """Volumes that nobody has yet."""
    for number in range(count):
        spec = {
            "capacity": {"storage": "2Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": CLASS,
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": f"/var/empty/{number}"},
        }
        disk = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"disk-{number}"}, "spec": spec}
        answer = api.create("/api/v1/persistentvolumes", disk)
        assert answer.code == 201, answer.message


def claims(api: Api) -> dict[int, dict[str, Any]]:
    """By the ordinal of their gateway."""
    return {int(item["metadata"]["name"].rpartition("-")[2]): item for item in api.get(CLAIMS).body["items"]}


def there(api: Api) -> list[str]:
    """Kinds of the gateways' workloads."""
    return [kind for kind, path in KINDS.items() if api.get(path).code == 200]


def ready(api: Api, kind: str, count: int) -> bool:
    answer = api.get(KINDS[kind])
    status = (answer.body.get("status") or {}) if answer.code == 200 else {}
    return bool(status.get("availableReplicas") == status.get("replicas") == count)


def put_jobs(api: Api) -> list[str]:
    items = api.get(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs?labelSelector={identity.COMPONENT}={LEFT_JOURNAL}")
    return [item["metadata"]["name"] for item in items.body["items"]]


def test_volumes_come_with_gateways_and_go_once_they_are_empty(cluster: Cluster, tmp_path: Path) -> None:
    api, flags = cluster.api, ("--lease-name", NAMESPACE, "--serve-image", "servers:1", "--resync-seconds", "20")
    namespace_of(api, NAMESPACE, **{"pod-security.kubernetes.io/enforce": "restricted"})
    make_disks(api, 5)
    with Node(api) as node, Operator(cluster, tmp_path, *flags) as operator:
        operator.wait_ready()
        path = create_run(api, NAMESPACE, **LIVE, gateway={"journalVolume": VOLUME, "replicas": 2})
        until(lambda: ready(api, "statefulsets", 2), "gateways are ready", 120)
        uid = api.get(path).body["metadata"]["uid"]
        assert {claim["status"]["phase"] for claim in claims(api).values()} == {"Bound"}
        assert [o["uid"] for claim in claims(api).values() for o in claim["metadata"]["ownerReferences"]] == [uid] * 2

        node.bucket = False
        api.merge(path, {"spec": {"gateway": {"replicas": 1}}})
        until(lambda: put_jobs(api) == ["small-gateway-1-put"], "what is left is being put", 60)
        assert sorted(claims(api)) == [0, 1]
        api.merge(path, {"spec": {"gateway": {"replicas": 2}}})
        until(lambda: not put_jobs(api) and ready(api, "statefulsets", 2), "the gateway takes its volume back", 60)
        assert sorted(claims(api)) == [0, 1]
        api.merge(path, {"spec": {"gateway": {"replicas": 1}}})
        until(lambda: put_jobs(api) == ["small-gateway-1-put"], "what is left is being put again", 60)
        node.bucket = True
        until(lambda: sorted(claims(api)) == [0] and not put_jobs(api), "an empty volume goes", 60)

        api.merge(path, {"spec": {"gateway": {"journalVolume": None}}})
        until(lambda: there(api) == ["deployments"] and not claims(api), "there are no volumes any more", 90)
        assert ready(api, "deployments", 1)
        api.merge(path, {"spec": {"gateway": {"journalVolume": VOLUME}}})
        until(lambda: there(api) == ["statefulsets"] and ready(api, "statefulsets", 1), "there is one again", 90)

        # A Job that is at work when the run goes ends its work before its volume goes.
        node.bucket = False
        api.merge(path, {"spec": {"gateway": {"replicas": 2}}})
        until(lambda: ready(api, "statefulsets", 2), "there are two again", 60)
        api.merge(path, {"spec": {"gateway": {"replicas": 1}}})
        until(lambda: bool(put_jobs(api)), "what is left is being put once more", 60)
        assert api.delete(path).code == 200
        until(lambda: sorted(claims(api)) == [1] and there(api) == [], "all else is gone", 60)
        assert put_jobs(api) == ["small-gateway-1-put"]
        node.bucket = True
        until(lambda: not claims(api) and not put_jobs(api), "nothing is left", 60)
        assert node.errors == []
        assert operator.stop() == 0
