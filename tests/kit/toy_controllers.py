"""A stand-in for controllers and the kubelet: Jobs get pods that end as a stage would, Deployments get ready."""

from collections.abc import Callable
from typing import Any

from ippo_trainer.contract.digests import digest_of

from tests.kit.background import Background
from tests.kit.control_plane import Api
from tests.kit.planner_world import good_result
from tests.kit.stage_ends import Ending, end_of, now, phase_of, terminated
from tests.kit.toy_cluster import deployment_status, endpoint_slice

JOBS = "/apis/batch/v1"
APPS = "/apis/apps/v1"


class StandIn(Background):
    """Runs every Job and Deployment of the cluster in a thread. Use as a context manager.

    Args:
        api: as an administrator.
        ending: how a stage ends; a result, or an exit code and a termination message.
        interval: seconds between two looks.
        serves: whether servers of a pod template get ready; of others, the progress deadline passes at once.
    """

    def __init__(
        self,
        api: Api,
        ending: Ending = good_result,
        interval: float = 0.1,
        serves: Callable[[dict[str, Any]], bool] = lambda _template: True,
    ) -> None:
        super().__init__(interval)
        self._api = api
        self._ending = ending
        self._serves = serves
        self.ran: list[str] = []

    def look(self) -> None:
        for job in self._api.get(f"{JOBS}/jobs").body.get("items") or ():
            self._look_at(job)
        for deployment in self._api.get(f"{APPS}/deployments").body.get("items") or ():
            self._roll_out(deployment)
            connect(self._api, deployment)

    def _look_at(self, job: dict[str, Any]) -> None:
        metadata = job["metadata"]
        if "deletionTimestamp" in metadata:
            self._let_go(job)
        elif not job["spec"].get("suspend") and not (job.get("status") or {}).get("conditions"):
            self._run(job)

    def _let_go(self, job: dict[str, Any]) -> None:
        """As the garbage collector does: dependents first."""
        metadata = job["metadata"]
        pods = f"/api/v1/namespaces/{metadata['namespace']}/pods"
        selector = f"?labelSelector=batch.kubernetes.io/controller-uid={metadata['uid']}"
        self._api.delete(f"{pods}{selector}&gracePeriodSeconds=0")
        path = f"{JOBS}/namespaces/{metadata['namespace']}/jobs/{metadata['name']}"
        self._api.merge(path, {"metadata": {"finalizers": None}})

    def _run(self, job: dict[str, Any]) -> None:
        metadata = job["metadata"]
        place, name = metadata["namespace"], metadata["name"]
        end = end_of(self._api, place, name, self._ending)
        if end is None:
            return
        code, message = end
        self.ran.append(name)
        for index in range(job["spec"]["completions"]):
            self._pod(job, index, code, message)
        path = f"{JOBS}/namespaces/{place}/jobs/{name}/status"
        answer = self._api.merge(path, {"status": job_status(job, code)})
        if answer.code != 200 and answer.code != 404:
            raise AssertionError(answer.message)

    def _pod(self, job: dict[str, Any], index: int, code: int, message: str) -> None:
        metadata, template = job["metadata"], job["spec"]["template"]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **template["metadata"],
                "name": f"{metadata['name']}-{index}",
                "ownerReferences": [owner | {"controller": True}],
            },
            "spec": template["spec"],
        }
        pods = f"/api/v1/namespaces/{metadata['namespace']}/pods"
        answer = self._api.create(pods, pod)
        assert answer.code in {201, 409}, answer.message
        container = {"name": "stage", "state": terminated(code, message), "ready": False, "restartCount": 0}
        container |= {"image": "stages", "imageID": "stages"}
        status = {"phase": phase_of(code), "containerStatuses": [container]}
        self._api.merge(f"{pods}/{metadata['name']}-{index}/status", {"status": status})

    def _roll_out(self, deployment: dict[str, Any]) -> None:
        metadata, template = deployment["metadata"], deployment["spec"]["template"]
        place, before = metadata["namespace"], deployment.get("status") or {}
        self._replica_set(deployment)
        replicas, old = deployment["spec"]["replicas"], before.get("availableReplicas", 0)
        new = before.get("observedGeneration") != metadata["generation"]
        works = not new and self._serves(template)
        total, available = (old + replicas, old) if not works else (replicas, replicas)
        if not new and not works:
            total = before["replicas"]
        # A generation that was not seen yet has its servers started; they are ready at the next look, or never.
        gave_up = "" if new or works else now()
        status = deployment_status(metadata["generation"], replicas, total, available, exceeded=gave_up)
        status["readyReplicas"] = available
        if any(before.get(name, 0) != value for name, value in status.items() if name != "conditions") or (
            _reasons(before) != _reasons(status)
        ):
            path = f"{APPS}/namespaces/{place}/deployments/{metadata['name']}/status"
            answer = self._api.merge(path, {"metadata": {"uid": metadata["uid"]}, "status": status})
            if answer.code not in {200, 404, 409}:
                raise AssertionError(answer.message)

    def _replica_set(self, deployment: dict[str, Any]) -> None:
        """That of the newest pod template, as the Deployment controller keeps it for an undo."""
        metadata, template = deployment["metadata"], deployment["spec"]["template"]
        labels = template["metadata"]["labels"] | {"pod-template-hash": digest_of(template)[7:15]}
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": metadata["name"], "uid": metadata["uid"]}
        replica_set = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": f"{metadata['name']}-{labels['pod-template-hash']}",
                "labels": labels,
                "ownerReferences": [owner | {"controller": True}],
            },
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": labels},
                "template": {**template, "metadata": template["metadata"] | {"labels": labels}},
            },
        }
        answer = self._api.create(f"{APPS}/namespaces/{metadata['namespace']}/replicasets", replica_set)
        if answer.code not in {201, 404, 409}:
            raise AssertionError(answer.message)


def connect(api: Api, deployment: dict[str, Any]) -> None:
    """As the EndpointSlice controller does for the Service of the Deployment's name."""
    metadata, labels = deployment["metadata"], deployment["spec"]["template"]["metadata"]["labels"]
    place, name = metadata["namespace"], metadata["name"]
    service = api.get(f"/api/v1/namespaces/{place}/services/{name}")
    if service.code != 200:
        return
    fits = (service.body["spec"].get("selector") or {"": ""}).items() <= labels.items()
    ready = deployment.get("status", {}).get("availableReplicas", 0) if fits else 0
    endpoints = endpoint_slice(service.body, ready)
    path = f"/apis/discovery.k8s.io/v1/namespaces/{place}/endpointslices/{endpoints['metadata']['name']}"
    answer = api.apply(path, endpoints, "endpoints")
    if answer.code not in {200, 201, 404}:
        raise AssertionError(answer.message)


def _reasons(status: dict[str, Any]) -> list[str]:
    return [condition["reason"] for condition in status.get("conditions") or ()]


def job_status(job: dict[str, Any], code: int) -> dict[str, Any]:
    """As the API server's validation wants a Job that is over."""
    count, moment = job["spec"]["completions"], now()
    kinds = ("FailureTarget", "Failed") if code else ("SuccessCriteriaMet", "Complete")
    reason = {"reason": "PodFailurePolicy", "message": f"exit code {code}"} if code else {}
    conditions = [{"type": kind, "status": "True", "lastTransitionTime": moment, **reason} for kind in kinds]
    status: dict[str, Any] = {"startTime": moment, "conditions": conditions, "uncountedTerminatedPods": {}}
    indexed = job["spec"].get("completionMode") == "Indexed"
    done = {"completedIndexes": f"0-{count - 1}" if count > 1 else "0"} if indexed and not code else {}
    return status | done | ({"failed": count} if code else {"succeeded": count, "completionTime": moment})
