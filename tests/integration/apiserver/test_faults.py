"""What breaks around a running operator: etcd, the API server, the CRD, namespaces, credentials, children.

Every run ends right, no attempt is made twice, and the probes tell the truth meanwhile.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kit.api_runs import create_run, jobs, stands, status_of, wait_for
from tests.kit.control_plane import RUNS, Api
from tests.kit.kubelet import Kubelet, delete_namespace, namespace_of
from tests.kit.operator_process import Operator
from tests.kit.real_controllers import CRD, Cluster
from tests.kit.waiting import until

QUICK = {"pods": {"common": {"terminationGracePeriodSeconds": 5}}}
"""A namespace controller waits as long as the pods in it may take to end."""


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    name = request.node.name.removeprefix("test_").replace("_", "-")[:60].strip("-")
    yield namespace_of(cluster.api, name)
    cluster.api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def kubelet(cluster: Cluster) -> Iterator[Kubelet]:
    with Kubelet(cluster.api) as kubelet:
        yield kubelet
    assert kubelet.errors == []


@pytest.fixture
def operator(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[Operator]:
    with Operator(cluster, tmp_path, "--lease-name", namespace, "--resync-seconds", "20") as operator:
        operator.wait_ready()
        yield operator
        assert "Traceback" not in operator.log.read_text()


def begin(api: Api, namespace: str, name: str = "small", **spec: Any) -> str:
    return create_run(api, namespace, name, **QUICK | spec)


def await_end(api: Api, path: str, *operators: Operator, seconds: float = 90) -> dict[str, Any]:
    """Until the run succeeded; its status."""
    wait_for(api, path, "Succeeded", *operators, seconds=seconds)
    return status_of(api, path)


def under_way(api: Api, path: str, stage: str = "collect") -> None:
    """Until the operator saw the Job of that stage; one that goes before is made again under its name."""

    def seen() -> bool:
        status = status_of(api, path)
        return status.get("stage") == stage and bool((status.get("active") or {}).get("observed"))

    until(seen, f"the job of {stage} is seen", 60)


def each_once(api: Api, namespace: str, run: str, stages: int) -> None:
    """One Job per stage and attempt, and one event of its completion."""
    names = [job["metadata"]["name"] for job in jobs(api, namespace) if job["metadata"]["name"].startswith(f"{run}-i")]
    assert len(names) == len(set(names)) == stages, names
    identity = [
        tuple(job["metadata"]["labels"][f"ippo.dev/{key}"] for key in ("iteration", "stage", "attempt"))
        for job in jobs(api, namespace)
        if job["metadata"]["labels"]["ippo.dev/run"] == run
    ]
    assert len(identity) == len(set(identity)) == stages


def report(operator: Operator, probe: str = "/readyz") -> tuple[int, dict[str, Any]]:
    code, body = operator.probe(probe)
    return code, json.loads(body) if body else {}


def knows(operator: Operator, api: Api) -> bool:
    """Whether the operator knows of as many runs as there are, and has nothing to do for another one."""
    told = report(operator)[1]
    there = api.get(RUNS.replace("/namespaces/{}", "")).body["items"]
    return (told["knownRuns"], told["queueDepth"]) == (len(there), 0)


# The API server and its etcd


def test_a_slow_etcd_loses_and_doubles_nothing(
    cluster: Cluster, namespace: str, kubelet: Kubelet, operator: Operator, tmp_path: Path
) -> None:
    flags = ("--lease-name", namespace, "--resync-seconds", "20")
    with Operator(cluster, tmp_path, *flags) as other, cluster.slow("etcd", still=0.8, moving=0.2):
        paths = [begin(cluster.api, namespace, f"run-{number}") for number in range(3)]
        for path in paths:
            status = await_end(cluster.api, path, operator, other)
            assert status["budgets"] == {"tryAgain": 0, "crashes": 0, "disruptions": 0}
        holders = [report(process, "/livez")[1]["leader"] for process in (operator, other)]
        assert sorted(holders) == [False, True]
    for number in range(3):
        each_once(cluster.api, namespace, f"run-{number}", 5)


def test_an_etcd_that_stands_still_longer_than_the_lease(
    cluster: Cluster, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    path = begin(cluster.api, namespace, iterations={"max": 2})
    under_way(cluster.api, path)
    with cluster.stopped("etcd"):
        until(lambda: report(operator)[1]["leader"] is False, "it does not act without a lease", 60)
        assert report(operator, "/livez")[0] == 200
    await_end(cluster.api, path, operator)
    each_once(cluster.api, namespace, "small", 9)


def test_an_api_server_that_restarts(cluster: Cluster, namespace: str, kubelet: Kubelet, operator: Operator) -> None:
    path = begin(cluster.api, namespace, iterations={"max": 2})
    under_way(cluster.api, path)
    cluster.restart("kube-apiserver")
    status = await_end(cluster.api, path, operator)
    assert status["completedIterations"] == 2
    assert status["budgets"] == {"tryAgain": 0, "crashes": 0, "disruptions": 0}
    each_once(cluster.api, namespace, "small", 9)
    until(lambda: report(operator)[0] == 200, "the operator is ready again", 90)


@pytest.mark.slow
def test_an_api_server_that_does_not_answer_for_a_minute(
    cluster: Cluster, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    path = begin(cluster.api, namespace, iterations={"max": 2})
    under_way(cluster.api, path)
    with cluster.stopped("kube-apiserver"):
        until(lambda: report(operator)[0] == 503, "the operator says that it is not ready", 120)
        assert "has not answered for" in report(operator)[1]["problem"]
        assert report(operator, "/livez")[0] == 200  # a restart would not help
    await_end(cluster.api, path, operator)
    each_once(cluster.api, namespace, "small", 9)
    until(lambda: report(operator)[0] == 200, "the operator is ready again", 90)


# Namespaces and the CRD


def test_a_namespace_that_is_deleted_goes_with_its_run(
    cluster: Cluster, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    kubelet.holds = lambda pod: pod["metadata"]["namespace"] == namespace
    path = begin(cluster.api, namespace)
    until(lambda: bool(jobs(cluster.api, namespace)), "a job is there")
    delete_namespace(cluster.api, namespace)
    assert cluster.api.get(path).code == 404
    until(lambda: knows(operator, cluster.api), "the run is forgotten")
    elsewhere = namespace_of(cluster.api, f"{namespace[:50]}-next")
    await_end(cluster.api, begin(cluster.api, elsewhere), operator)
    delete_namespace(cluster.api, elsewhere)


def test_a_namespace_is_deleted_while_no_operator_runs(
    cluster: Cluster, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    kubelet.holds = lambda pod: pod["metadata"]["namespace"] == namespace
    path = begin(cluster.api, namespace)
    until(lambda: bool(jobs(cluster.api, namespace)), "a job is there")
    assert "finalizers" not in cluster.api.get(path).body["metadata"]
    operator.kill()
    delete_namespace(cluster.api, namespace)
    operator.start()
    operator.wait_ready()
    until(lambda: knows(operator, cluster.api), "the run is forgotten")


def await_collector(api: Api, namespace: str) -> None:
    """Until the garbage collector watches runs: it takes up to 30 s after the CRD, and misses what went before."""
    path = begin(api, namespace, "collected", suspend=True)
    api.delete(f"{path}?propagationPolicy=Foreground")
    until(lambda: api.get(path).code == 404, "the garbage collector takes off its finalizer", 60)


def test_a_crd_that_is_removed_and_comes_back(
    cluster: Cluster, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    await_collector(cluster.api, namespace)
    kubelet.holds = lambda pod: pod["metadata"]["namespace"] == namespace
    begin(cluster.api, namespace)
    until(lambda: bool(jobs(cluster.api, namespace)), "a job is there")
    assert cluster.api.delete(CRD).code == 200
    try:
        until(lambda: cluster.api.get(CRD).code == 404, "the CRD is gone", 60)
        until(lambda: not jobs(cluster.api, namespace), "its runs' jobs are collected", 60)
        until(lambda: report(operator)[0] == 503, "the operator says that it is not ready", 120)
        assert "iterativepporuns" in report(operator)[1]["problem"]
        assert "CRD" in report(operator)[1]["problem"]
    finally:
        cluster.install()
    kubelet.holds = lambda _pod: False
    until(lambda: report(operator)[0] == 200, "the operator is ready again", 120)
    await_end(cluster.api, begin(cluster.api, namespace, "again"), operator)
    each_once(cluster.api, namespace, "again", 5)


# Children that someone else touches


def test_a_job_that_is_deleted_by_hand_is_a_lost_attempt(
    cluster: Cluster, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    kubelet.holds = lambda pod: "collect-a1" in pod["metadata"]["name"]
    path = begin(cluster.api, namespace)
    under_way(cluster.api, path)
    name = status_of(cluster.api, path)["active"]["jobName"]
    cluster.api.delete(f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}?propagationPolicy=Background")
    status = await_end(cluster.api, path, operator)
    assert status["lastFailure"]["reason"] == "Disrupted"
    assert status["completedIterations"] == 1


def test_a_pod_that_is_deleted_by_hand_is_a_lost_attempt(
    cluster: Cluster, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    kubelet.holds = lambda pod: "collect-a1" in pod["metadata"]["name"]
    path = begin(cluster.api, namespace)
    pods = f"/api/v1/namespaces/{namespace}/pods"

    def held() -> list[str]:
        items = cluster.api.get(f"{pods}?fieldSelector=status.phase=Running").body["items"]
        return [pod["metadata"]["name"] for pod in items if kubelet.holds(pod)]

    until(lambda: bool(held()), "a pod of collect runs", 60)
    cluster.api.delete(f"{pods}/{held()[0]}?gracePeriodSeconds=0")
    status = await_end(cluster.api, path, operator)
    assert status["lastFailure"]["reason"] == "Disrupted"
    assert status["budgets"]["crashes"] == 0


def test_a_job_that_someone_suspends_waits_and_goes_on(
    cluster: Cluster, namespace: str, kubelet: Kubelet, operator: Operator
) -> None:
    kubelet.holds = lambda pod: "collect-a1" in pod["metadata"]["name"]
    path = begin(cluster.api, namespace)
    under_way(cluster.api, path)
    name = status_of(cluster.api, path)["active"]["jobName"]
    job = f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}"
    assert cluster.api.merge(job, {"spec": {"suspend": True}}).code == 200
    until(lambda: stands(cluster.api, path, "Reconciling") == ("True", "JobPaused"), "the run says that its Job rests")
    kubelet.holds = lambda _pod: False
    assert cluster.api.merge(job, {"spec": {"suspend": False}}).code == 200
    status = await_end(cluster.api, path, operator)
    assert "lastFailure" not in status
    each_once(cluster.api, namespace, "small", 5)


# Credentials


class Token:
    """A service account's token, bound to a Secret: without it, the API server no longer takes the token."""

    def __init__(self, api: Api, name: str) -> None:
        self._api = api
        self._secret = f"/api/v1/namespaces/default/secrets/{name}"
        secret = api.create("/api/v1/namespaces/default/secrets", {"metadata": {"name": name}}).body["metadata"]
        bound = {"kind": "Secret", "apiVersion": "v1", "name": name, "uid": secret["uid"]}
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": bound}}
        answer = api.create("/api/v1/namespaces/default/serviceaccounts/rotated/token", asked)
        assert answer.code == 201, answer.message
        self.text = str(answer.body["status"]["token"])

    def revoke(self, as_user: Api) -> None:
        """Until the API server refuses it; it remembers good tokens for some seconds."""
        self._api.delete(self._secret)
        until(lambda: as_user.get("/api/v1/namespaces/default").code == 401, "the token is refused", 60)


def test_credentials_that_are_rotated(cluster: Cluster, namespace: str, kubelet: Kubelet, tmp_path: Path) -> None:
    api = cluster.api
    api.create("/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "rotated"}})
    binding = {
        "metadata": {"name": "rotated"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "rotated", "namespace": "default"}],
    }
    api.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
    old = Token(api, "old")
    kubeconfig = cluster.kubeconfig_of(old.text, "rotated.kubeconfig")
    with ExitStack() as stack:
        operator = stack.enter_context(Operator(cluster, tmp_path, "--lease-name", namespace, kubeconfig=kubeconfig))
        operator.wait_ready()
        gate = threading.Event()
        kubelet.holds = lambda _pod: not gate.is_set()
        path = begin(api, namespace)
        until(lambda: bool(jobs(api, namespace)), "a job is there")
        cluster.kubeconfig_of(Token(api, "new").text, "rotated.kubeconfig")
        old.revoke(cluster.user(old.text))
        gate.set()
        await_end(api, path, operator)
        each_once(api, namespace, "small", 5)
        until(lambda: report(operator)[0] == 200, "the operator is ready", 90)
        text = operator.log.read_text()
        assert old.text not in text
        assert "Traceback" not in text
