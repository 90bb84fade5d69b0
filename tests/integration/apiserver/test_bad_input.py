"""What the schema cannot catch shows within seconds, says what to mend, and heals by itself once it is mended.

Jobs, quota, service accounts, admission and scheduling are the real ones; the kubelet is a stand-in.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.kit.api_runs import condition, create_run, stands, wait_for
from tests.kit.control_plane import Api
from tests.kit.kubelet import Kubelet, namespace_of
from tests.kit.operator_process import Operator
from tests.kit.real_controllers import Cluster
from tests.kit.waiting import until

SECONDS = 15.0


class Bench(NamedTuple):
    """A running operator and what is around it."""

    cluster: Cluster
    kubelet: Kubelet
    operator: Operator

    @property
    def api(self) -> Api:
        return self.cluster.api


@pytest.fixture(scope="module")
def bench(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bad-input")
    with Kubelet(cluster.api) as kubelet, Operator(cluster, folder, "--lease-name", "bad-input") as operator:
        operator.wait_ready()
        yield Bench(cluster, kubelet, operator)
        assert kubelet.errors == []
        assert "Traceback" not in operator.log.read_text()


@pytest.fixture
def namespace(bench: Bench, request: pytest.FixtureRequest) -> Iterator[str]:
    name = re.sub("[^a-z]+", "-", request.node.name.lower().removeprefix("test_"))[:50].strip("-")
    yield namespace_of(bench.api, name)
    bench.api.delete(f"/api/v1/namespaces/{name}")


def shows(bench: Bench, path: str, reason: str, *words: str) -> None:
    """The run says so, in one line with these words, and goes on waiting."""
    wait_for(bench.api, path, "Reconciling", bench.operator, reason=reason, seconds=SECONDS)
    message = condition(bench.api, path, "Reconciling")["message"]
    assert [word for word in words if word not in message] == [], message
    assert "\n" not in message
    assert stands(bench.api, path, "Stalled")[0] == "False"
    assert stands(bench.api, path, "Ready") == ("False", reason)


def heals(bench: Bench, path: str) -> None:
    """The run goes on to its end, and nothing was counted as a failure."""
    wait_for(bench.api, path, "Succeeded", bench.operator, seconds=120)
    status = bench.api.get(path).body["status"]
    assert "lastFailure" not in status
    assert status["completedIterations"] == 1


def test_a_missing_service_account(bench: Bench, namespace: str) -> None:
    path = create_run(bench.api, namespace, serviceAccountName="trainer")
    shows(bench, path, "PodRefused", 'serviceaccount "trainer" not found', "serviceAccountName")
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "trainer"}}
    assert bench.api.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", account).code == 201
    heals(bench, path)


def secret(bench: Bench, namespace: str, name: str) -> None:
    manifest = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"token": "x"}}
    assert bench.api.create(f"/api/v1/namespaces/{namespace}/secrets", manifest).code == 201


def test_a_missing_secret_of_the_bucket(bench: Bench, namespace: str) -> None:
    path = create_run(bench.api, namespace, artifacts={"s3": {"bucket": "artifacts", "credentialsSecretName": "keys"}})
    shows(bench, path, "PodNotStarted", 'secret "keys" not found', "Create it")
    secret(bench, namespace, "keys")
    heals(bench, path)


def test_a_missing_secret_of_a_variable(bench: Bench, namespace: str) -> None:
    env = [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}]
    path = create_run(bench.api, namespace, pods={"common": {"env": env}})
    shows(bench, path, "PodNotStarted", 'secret "hub" not found', "Create it")
    secret(bench, namespace, "hub")
    heals(bench, path)


def test_an_image_that_nobody_has(bench: Bench, namespace: str) -> None:
    bench.kubelet.no_such_image.add("registry.example/typo:1")
    path = create_run(bench.api, namespace, pods={"common": {"image": "registry.example/typo:1"}})
    shows(bench, path, "ImagePullFailed", "registry.example/typo:1", "not found", "imagePullSecrets")
    bench.kubelet.no_such_image.clear()
    heals(bench, path)


def test_an_image_that_is_corrected_in_the_spec(bench: Bench, namespace: str) -> None:
    bench.kubelet.no_such_image.add("registry.example/wrong:1")
    path = create_run(bench.api, namespace, pods={"common": {"image": "registry.example/wrong:1"}})
    shows(bench, path, "ImagePullFailed", "registry.example/wrong:1")
    answer = bench.api.merge(path, {"spec": {"pods": {"common": {"image": "registry.example/right:1"}}}})
    assert answer.code == 200, answer.message
    wait_for(bench.api, path, "Succeeded", bench.operator, seconds=120)


def test_gpus_that_no_node_has(bench: Bench, namespace: str) -> None:
    limits = {"limits": {"nvidia.com/gpu": 8}}
    path = create_run(bench.api, namespace, pods={"improve": {"resources": limits}})
    shows(bench, path, "Unschedulable", "nvidia.com/gpu", "resources")
    bench.cluster.has_room(**{"nvidia.com/gpu": "8"})
    heals(bench, path)


def quota(bench: Bench, namespace: str, hard: dict[str, str]) -> str:
    places = f"/api/v1/namespaces/{namespace}/resourcequotas"
    manifest = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team-quota"}, "spec": {"hard": hard}}
    assert bench.api.create(places, manifest).code == 201
    until(lambda: "hard" in bench.api.get(f"{places}/team-quota").body["status"], "the quota counts")
    return f"{places}/team-quota"


def test_a_quota_of_pods(bench: Bench, namespace: str) -> None:
    path_of_quota = quota(bench, namespace, {"pods": "0"})
    path = create_run(bench.api, namespace)
    shows(bench, path, "PodRefused", "exceeded quota: team-quota")
    bench.api.delete(path_of_quota)
    heals(bench, path)


def test_a_quota_of_jobs(bench: Bench, namespace: str) -> None:
    path_of_quota = quota(bench, namespace, {"count/jobs.batch": "0"})
    path = create_run(bench.api, namespace)
    shows(bench, path, "ChildRefused", "exceeded quota: team-quota")
    bench.api.delete(path_of_quota)
    heals(bench, path)


POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
WORDS = "pods of this company name their cost-centre"


@pytest.mark.parametrize(("group", "kind", "reason"), [("", "pods", "PodRefused"), ("batch", "jobs", "ChildRefused")])
def test_a_policy_of_the_company(bench: Bench, namespace: str, group: str, kind: str, reason: str) -> None:
    name = f"{namespace}-{kind}"
    rule = {"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [kind]}
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": "'cost-centre' in object.metadata.labels", "message": WORDS}],
        },
    }
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": selector},
        },
    }
    assert bench.api.create(POLICIES, policy).code == 201
    assert bench.api.create(f"{POLICIES.removesuffix('policies')}policybindings", binding).code == 201
    place = f"/apis/batch/v1/namespaces/{namespace}/jobs" if group else f"/api/v1/namespaces/{namespace}/pods"
    probe = {"metadata": {"name": "probe", "labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    if group:
        probe["spec"] = {"template": {"spec": probe["spec"] | {"restartPolicy": "Never"}}}
    until(lambda: WORDS in bench.api.create(f"{place}?dryRun=All", probe).message, "the policy holds")
    try:
        path = create_run(bench.api, namespace)
        shows(bench, path, reason, WORDS)
    finally:
        bench.api.delete(f"{POLICIES}/{name}")
    heals(bench, path)


def test_pod_security_of_the_namespace(bench: Bench) -> None:
    """The operator's pods meet the strictest standard, so a run in such a namespace just works."""
    name = namespace_of(bench.api, "strictest", **{"pod-security.kubernetes.io/enforce": "restricted"})
    heals(bench, create_run(bench.api, name))


def test_a_queue_that_is_not_there(bench: Bench, namespace: str) -> None:
    path = create_run(bench.api, namespace, queue={"localQueueName": "gpsu"})
    shows(bench, path, "WaitingForQuota", "gpsu", "LocalQueue")
    assert stands(bench.api, path, "Queued")[0] == "True"
    assert bench.api.merge(path, {"spec": {"queue": {"localQueueName": "gpus"}}}).code == 200
    until(lambda: "gpus" in condition(bench.api, path, "Reconciling")["message"], "the new queue is asked", SECONDS)


def test_an_edit_of_what_is_immutable_is_refused_in_our_words(bench: Bench, namespace: str) -> None:
    path = create_run(bench.api, namespace, queue={"localQueueName": "q"})
    shows(bench, path, "WaitingForQuota")
    answer = bench.api.merge(path, {"spec": {"seed": 7}})
    assert answer.code == 422
    assert "spec.seed: Forbidden: is immutable since the run started; put it back or start a new run" in answer.message
