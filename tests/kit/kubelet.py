"""A stand-in for the kubelet: pods that the scheduler bound end as a stage would, or say why they cannot start.

Statuses and events are worded as the kubelet words them. It looks at Secrets as the kubelet does, again and again, so
that what is mended later starts later.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.kit.background import Background
from tests.kit.control_plane import Api
from tests.kit.planner_world import good_result
from tests.kit.stage_ends import Ending, end_of, now, phase_of, terminated
from tests.kit.waiting import until

Pod = dict[str, Any]

JOB_NAME = "batch.kubernetes.io/job-name"


class Kubelet(Background):
    """Runs every bound pod of the cluster in a thread. Use as a context manager.

    Args:
        api: as an administrator.
        ending: how a stage ends; a result, or an exit code and a termination message.
        holds: whether a pod just runs on; deleted, it goes at once.
    """

    def __init__(
        self, api: Api, ending: Ending = good_result, holds: Callable[[Pod], bool] = lambda _pod: False
    ) -> None:
        super().__init__(interval=0.1)
        self._api = api
        self._ending = ending
        self.holds = holds
        self.no_such_image: set[str] = set()
        """Images that no registry has."""
        self.ended: list[str] = []
        """Pods that ran to their end."""
        self._reported: set[str] = set()

    def look(self) -> None:
        with suppress(OSError):  # the API server is away, as tests ask
            for pod in self._api.get("/api/v1/pods").body.get("items") or ():
                self._look_at(pod)

    def _look_at(self, pod: Pod) -> None:
        metadata, phase = pod["metadata"], pod["status"].get("phase")
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        if "deletionTimestamp" in metadata:
            if phase in {"Pending", "Running"}:  # the Job controller lets go of pods that have an end only
                self._say(path, "Failed", terminated(143, ""))
            self._api.delete(f"{path}?gracePeriodSeconds=0")
        elif self._rests(pod) or self._troubled(pod, path):
            return
        elif self.holds(pod):
            if phase == "Pending":
                self._say(path, "Running", {"running": {"startedAt": now()}})
        else:
            self._run(pod, path)

    @staticmethod
    def _rests(pod: Pod) -> bool:
        """Whether there is nothing to run: it has no node or is over, or it is a server, of whatever test."""
        at_work = pod["spec"].get("nodeName") and pod["status"].get("phase") in {"Pending", "Running"}
        return not at_work or JOB_NAME not in (pod["metadata"].get("labels") or {})

    def _run(self, pod: Pod, path: str) -> None:
        metadata = pod["metadata"]
        name = metadata["labels"][JOB_NAME]
        end = end_of(self._api, metadata["namespace"], name, self._ending)
        if end is not None and self._say(path, phase_of(end[0]), terminated(*end)):
            self.ended.append(metadata["name"])

    def _say(self, path: str, phase: str, state: dict[str, Any]) -> bool:
        container = {"name": "stage", "state": state, "ready": False, "restartCount": 0, "image": "i", "imageID": "i"}
        status = {"phase": phase, "containerStatuses": [container], "startTime": now()}
        return self._api.merge(f"{path}/status", {"status": status}).code == 200

    def _troubled(self, pod: Pod, path: str) -> bool:
        """Whether the pod cannot start; says so, once in an event or again in its status."""
        metadata, [container, *_] = pod["metadata"], pod["spec"]["containers"]
        if container["image"] in self.no_such_image:
            text = f'failed to pull and unpack image "{container["image"]}": not found'
            self._wait(path, container["image"], "ErrImagePull", text)
            return True
        for volume in pod["spec"].get("volumes") or ():
            secret = (volume.get("secret") or {}).get("secretName")
            if secret is not None and self._missing(metadata["namespace"], secret):
                text = f'MountVolume.SetUp failed for volume "{volume["name"]}" : secret "{secret}" not found'
                self._complain(pod, "FailedMount", text)
                return True
        for variable in container.get("env") or ():
            secret = ((variable.get("valueFrom") or {}).get("secretKeyRef") or {}).get("name")
            if secret is not None and self._missing(metadata["namespace"], secret):
                self._wait(path, container["image"], "CreateContainerConfigError", f'secret "{secret}" not found')
                return True
        return False

    def _missing(self, namespace: str, secret: str) -> bool:
        return self._api.get(f"/api/v1/namespaces/{namespace}/secrets/{secret}").code == 404

    def _wait(self, path: str, image: str, reason: str, message: str) -> None:
        state = {"waiting": {"reason": reason, "message": message}}
        container = {"name": "stage", "state": state, "ready": False, "restartCount": 0, "image": image, "imageID": ""}
        self._api.merge(f"{path}/status", {"status": {"phase": "Pending", "containerStatuses": [container]}})

    def _complain(self, pod: Pod, reason: str, message: str) -> None:
        metadata = pod["metadata"]
        if metadata["uid"] in self._reported:
            return
        self._reported.add(metadata["uid"])
        about = {"kind": "Pod", "namespace": metadata["namespace"], "name": metadata["name"], "uid": metadata["uid"]}
        event = {
            "metadata": {"name": f"{metadata['name']}.{reason.lower()}", "namespace": metadata["namespace"]},
            "involvedObject": about | {"apiVersion": "v1"},
            "type": "Warning",
            "reason": reason,
            "message": message,
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "source": {"component": "kubelet"},
        }
        answer = self._api.create(f"/api/v1/namespaces/{metadata['namespace']}/events", event)
        assert answer.code == 201, answer.message


def namespace_of(api: Api, name: str, **labels: str) -> str:
    """Makes a namespace, and waits for its service account."""
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    answer = api.create("/api/v1/namespaces", manifest)
    assert answer.code == 201, answer.message
    until(lambda: api.get(f"/api/v1/namespaces/{name}/serviceaccounts/default").code == 200, "its service account")
    return name


def delete_namespace(api: Api, name: str, seconds: float = 60) -> None:
    """Deletes it and waits until it is gone; says what holds it otherwise."""
    path = f"/api/v1/namespaces/{name}"
    api.delete(path)
    with suppress(TimeoutError):
        until(lambda: api.get(path).code == 404, f"namespace {name} is gone", seconds)
        return
    raise AssertionError(f"namespace {name} is not gone: {api.get(path).body.get('status')}")
