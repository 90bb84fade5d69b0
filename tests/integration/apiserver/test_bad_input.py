"""What the schema cannot catch shows within seconds, says what to mend, and heals by itself once it is mended.

Jobs, quota, service accounts, admission and scheduling are the real ones; the kubelet is a stand-in.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.kit.control_plane import RUNS, Api, until
from tests.kit.kubelet import Kubelet, namespace_of
from tests.kit.operator_process import Operator
from tests.kit.real_controllers import Cluster
from tests.kit.toy_cluster import run_manifest

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


def begin(bench: Bench, namespace: str, **spec: Any) -> str:
    answer = bench.api.create(RUNS.format(namespace), run_manifest(**spec) | {"metadata": {"name": "small"}})
    assert answer.code == 201, answer.message
    return f"{RUNS.format(namespace)}/small"


def condition(bench: Bench, path: str, kind: str = "Reconciling") -> tuple[str, str, str]:
    conditions = bench.api.get(path).body.get("status", {}).get("conditions", [])
    found = [(c["status"], c["reason"], c["message"]) for c in conditions if c["type"] == kind]
    return found[0] if found else ("", "", "")


def shows(bench: Bench, path: str, reason: str, *words: str) -> None:
    """The run says so, in one line with these words, and goes on waiting."""
    try:
        until(lambda: condition(bench, path)[1] == reason, f"the reason is {reason}", SECONDS)
    except TimeoutError as error:
        raise AssertionError(f"{error}: {condition(bench, path)}\n{bench.operator.log.read_text()[-2000:]}") from None
    truth, _, message = condition(bench, path)
    assert truth == "True"
    assert [word for word in words if word not in message] == [], message
    assert "\n" not in message
    assert condition(bench, path, "Stalled")[0] == "False"
    assert condition(bench, path, "Ready")[:2] == ("False", reason)


def heals(bench: Bench, path: str) -> None:
    """The run goes on to its end, and nothing was counted as a failure."""
    try:
        until(lambda: condition(bench, path, "Succeeded")[0] == "True", "the run succeeds", 120)
    except TimeoutError as error:
        raise AssertionError(f"{error}: {condition(bench, path)}\n{bench.operator.log.read_text()[-2000:]}") from None
    status = bench.api.get(path).body["status"]
    assert "lastFailure" not in status
    assert status["completedIterations"] == 1


def test_a_missing_service_account(bench: Bench, namespace: str) -> None:
    path = begin(bench, namespace, serviceAccountName="trainer")
    shows(bench, path, "PodRefused", 'serviceaccount "trainer" not found', "serviceAccountName")
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "trainer"}}
    assert bench.api.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", account).code == 201
    heals(bench, path)


def secret(bench: Bench, namespace: str, name: str) -> None:
    manifest = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"token": "x"}}
    assert bench.api.create(f"/api/v1/namespaces/{namespace}/secrets", manifest).code == 201


def test_a_missing_secret_of_the_bucket(bench: Bench, namespace: str) -> None:
    path = begin(bench, namespace, artifacts={"s3": {"bucket": "artifacts", "credentialsSecretName": "keys"}})
    shows(bench, path, "PodNotStarted", 'secret "keys" not found', "Create it")
    secret(bench, namespace, "keys")
    heals(bench, path)


def test_a_missing_secret_of_a_variable(bench: Bench, namespace: str) -> None:
    env = [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}]
    path = begin(bench, namespace, pods={"common": {"env": env}})
    shows(bench, path, "PodNotStarted", 'secret "hub" not found', "Create it")
    secret(bench, namespace, "hub")
    heals(bench, path)


def test_an_image_that_nobody_has(bench: Bench, namespace: str) -> None:
    bench.kubelet.no_such_image.add("registry.example/typo:1")
    path = begin(bench, namespace, pods={"common": {"image": "registry.example/typo:1"}})
    shows(bench, path, "ImagePullFailed", "registry.example/typo:1", "not found", "imagePullSecrets")
    bench.kubelet.no_such_image.clear()
    heals(bench, path)


def test_an_image_that_is_corrected_in_the_spec(bench: Bench, namespace: str) -> None:
    bench.kubelet.no_such_image.add("registry.example/wrong:1")
    path = begin(bench, namespace, pods={"common": {"image": "registry.example/wrong:1"}})
    shows(bench, path, "ImagePullFailed", "registry.example/wrong:1")
    answer = bench.api.merge(path, {"spec": {"pods": {"common": {"image": "registry.example/right:1"}}}})
    assert answer.code == 200, answer.message
    until(lambda: condition(bench, path, "Succeeded")[0] == "True", "the run succeeds", 120)


def test_gpus_that_no_node_has(bench: Bench, namespace: str) -> None:
    limits = {"limits": {"nvidia.com/gpu": 8}}
    path = begin(bench, namespace, pods={"improve": {"resources": limits}})
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
    path = begin(bench, namespace)
    shows(bench, path, "PodRefused", "exceeded quota: team-quota")
    bench.api.delete(path_of_quota)
    heals(bench, path)


def test_a_quota_of_jobs(bench: Bench, namespace: str) -> None:
    path_of_quota = quota(bench, namespace, {"count/jobs.batch": "0"})
    path = begin(bench, namespace)
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
        path = begin(bench, namespace)
        shows(bench, path, reason, WORDS)
    finally:
        bench.api.delete(f"{POLICIES}/{name}")
    heals(bench, path)


def test_pod_security_of_the_namespace(bench: Bench) -> None:
    """The operator's pods meet the strictest standard, so a run in such a namespace just works."""
    name = namespace_of(bench.api, "strictest", **{"pod-security.kubernetes.io/enforce": "restricted"})
    heals(bench, begin(bench, name))


def test_a_queue_that_is_not_there(bench: Bench, namespace: str) -> None:
    path = begin(bench, namespace, queue={"localQueueName": "gpsu"})
    shows(bench, path, "WaitingForQuota", "gpsu", "LocalQueue")
    assert condition(bench, path, "Queued")[0] == "True"
    assert bench.api.merge(path, {"spec": {"queue": {"localQueueName": "gpus"}}}).code == 200
    until(lambda: "gpus" in condition(bench, path)[2], "the new queue is asked", SECONDS)


def test_an_edit_of_what_is_immutable_is_refused_in_our_words(bench: Bench, namespace: str) -> None:
    path = begin(bench, namespace, queue={"localQueueName": "q"})
    shows(bench, path, "WaitingForQuota")
    answer = bench.api.merge(path, {"spec": {"seed": 7}})
    assert answer.code == 422
    assert "spec.seed: Forbidden: is immutable since the run started; put it back or start a new run" in answer.message
