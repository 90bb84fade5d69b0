"""Two teams that share a bucket and an operator with Roles only, below quotas, limit ranges and Pod Security."""

from collections.abc import Iterator

import pytest

from . import artifacts
from .kube import Kube
from .operator import NAMESPACE, RELEASE, Operator
from .runs import SECRET, Runs

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(2400)]
TEAMS = ("e2e-team-a", "e2e-team-b")


@pytest.fixture(scope="module")
def operator(kube: Kube) -> Iterator[Operator]:
    """It may look after the two namespaces and nothing else."""
    for team in TEAMS:
        kube.namespace(team, enforce="restricted")
    with Operator(kube, "--set", f"watchNamespaces={{{','.join(TEAMS)}}}") as installed:
        yield installed


@pytest.fixture(scope="module")
def teams(kube: Kube, bucket: str, operator: Operator) -> Iterator[list[Runs]]:
    teams = [Runs(kube, name, bucket, f"teams/{name}") for name in TEAMS]
    for team in teams:
        team.prepare(enforce="restricted")
        where = {"name": "team", "namespace": team.namespace}
        hard = {"requests.cpu": "2", "requests.memory": "4Gi", "limits.memory": "8Gi", "limits.cpu": "8", "pods": "10"}
        default = {"type": "Container", "default": {"cpu": "2"}, "defaultRequest": {"cpu": "100m"}}
        kube.apply(
            {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": where, "spec": {"hard": hard}},
            {"apiVersion": "v1", "kind": "LimitRange", "metadata": where, "spec": {"limits": [default]}},
        )
    yield teams
    for team in teams:
        kube.remove(team.namespace)


def test_both_succeed_and_neither_sees_the_other(
    kube: Kube, teams: list[Runs], undisturbed: artifacts.Files, bucket: str
) -> None:
    for team in teams:
        team.create("own", serve={"engine": "Transformers"})
    for team in teams:
        run = team.wait("own", "Succeeded")
        assert artifacts.digests(team.published("own")) == artifacts.digests(undisturbed)
        for pod in kube.list("pods", team.namespace):
            spec = pod["spec"]
            assert spec["automountServiceAccountToken"] is False
            used = [volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume]
            assert used == [SECRET]
            told = str([container.get("command") for container in spec["containers"]])
            assert not any(other.prefix in told for other in teams if other is not team)
        assert run["metadata"]["uid"]
    s3 = artifacts.client(kube.place.store)
    listed = s3.list_objects_v2(Bucket=bucket, Prefix="teams/", Delimiter="/")
    assert sorted(entry["Prefix"] for entry in listed["CommonPrefixes"]) == [f"{team.prefix}/" for team in teams]


@pytest.mark.parametrize(
    ("verb", "what", "where", "answer"),
    [
        ("create", "jobs", TEAMS[0], "yes"),
        ("create", "jobs", "default", "no"),
        ("get", "secrets", TEAMS[0], "no"),
        ("list", "secrets", TEAMS[1], "no"),
        ("list", "iterativepporuns.ippo.dev", "default", "no"),
        ("list", "namespaces", TEAMS[0], "no"),
    ],
)
def test_what_the_operator_may(kube: Kube, teams: list[Runs], verb: str, what: str, where: str, answer: str) -> None:
    account = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
    assert kube.call("kubectl", "auth", "can-i", verb, what, "-n", where, "--as", account).stdout.strip() == answer
