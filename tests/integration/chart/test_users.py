"""What people may do with the usual roles, view and edit, into which Kubernetes aggregates the chart's."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from ippo_operator.manifests.jobs import stage_config_map, stage_job
from ippo_operator.manifests.serving import serving_deployment, serving_service

from tests.kit.api_runs import stands
from tests.kit.cluster_objects import PLATFORM, POLICY, RICH, cluster_run, intent, serving_context
from tests.kit.control_plane import RUNS, Answer, Api, ControlPlane
from tests.kit.toy_cluster import run_manifest
from tests.kit.toy_controllers import StandIn
from tests.kit.waiting import until

from .conftest import make_namespace
from .helm import CHART, Manifest, apply, objects, render
from .installed import CLUSTER_WIDE, Installed, wait_for

ROLES = "/apis/rbac.authorization.k8s.io/v1"
ADA, BOB, CLEO = "token-of-ada", "token-of-bob", "token-of-cleo"
READABLE = ("/api/v1/{}/secrets", "/api/v1/{}/configmaps", "/api/v1/{}/pods", "/apis/batch/v1/{}/jobs")


@pytest.fixture(scope="module")
def installed(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """ada has `edit`, bob has `view` and cleo has `ippo-approve`, in the first namespace only."""
    release = Installed(plane, tmp_path_factory.mktemp("users"), "users", CLUSTER_WIDE)
    for user, role in (("bob", "view"), ("ada", "edit")):  # edit takes view in
        aggregate(plane.api, role)
        bind(plane.api, release.namespaces[0], user, role)
    bind(plane.api, release.namespaces[0], "cleo", "ippo-approve")
    until(lambda: refuses(plane.user(ADA), release.namespaces[0]), "the admission policy is in force")
    yield release
    release.remove()


ANSWERS = (
    {"approve": 1},
    {"reject": 1},
    {"approve": 2, "reject": 1},
)


def refuses(user: Api, place: str) -> bool:
    """Whether a run that brings its answer with it is refused."""
    answered = run_manifest(promotion={"mode": "Manual", "approve": 1}) | {"metadata": {"name": "answered"}}
    return user.create(f"{RUNS.format(place)}?dryRun=All", answered).code == 403


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_is_a_right_of_its_own(installed: Installed, plane: ControlPlane, answer: dict[str, int]) -> None:
    """Whoever may change a run may change all but its answers, in whatever way they come or go."""
    ada, cleo, place = plane.user(ADA), plane.user(CLEO), installed.namespaces[0]
    manual = run_manifest(promotion={"mode": "Manual"}, suspend=True) | {"metadata": {"name": "asked"}}
    done(ada.create(RUNS.format(place), manual))
    run = f"{RUNS.format(place)}/asked"
    assert ada.merge(run, {"spec": {"promotion": answer}}).code == 403
    full = done(ada.get(run)).body
    full["spec"]["promotion"] |= answer
    assert ada.request("PUT", run, full).code == 403
    answered = run_manifest(promotion={"mode": "Manual"} | answer)
    for name in ("asked", "brought"):  # changes the one, creates the other
        applied = {**answered, "metadata": {"name": name}}
        path = f"{RUNS.format(place)}/{name}?fieldManager=ada&force=true"
        assert ada.request("PATCH", path, applied, "application/apply-patch+yaml").code == 403
    operations: Any = [{"op": "add", "path": f"/spec/promotion/{key}", "value": value} for key, value in answer.items()]
    assert ada.request("PATCH", run, operations, "application/json-patch+json").code == 403
    assert ada.merge(f"{run}/status", {"spec": {"promotion": answer}}).code == 403
    assert ada.create(RUNS.format(place), answered | {"metadata": {"generateName": "brought-"}}).code == 403
    done(cleo.merge(run, {"spec": {"promotion": answer}}))
    done(ada.merge(run, {"spec": {"promotion": answer, "historyLimit": 7}}))  # said again, as from Git
    assert ada.merge(run, {"spec": {"promotion": dict.fromkeys(answer)}}).code == 403
    assert ada.merge(run, {"spec": {"promotion": None}}).code == 403
    assert cleo.create(RUNS.format(place), run_manifest() | {"metadata": {"name": "hers"}}).code == 403
    done(ada.delete(run))


def aggregate(api: Api, name: str) -> None:
    """As the controller of aggregated roles does, which this cluster does not have."""
    role = api.get(f"{ROLES}/clusterroles/{name}").body
    selectors = [selector["matchLabels"] for selector in role["aggregationRule"]["clusterRoleSelectors"]]
    parts = [
        part
        for part in api.get(f"{ROLES}/clusterroles").body["items"]
        if any(_has(part["metadata"].get("labels") or {}, wanted) for wanted in selectors)
    ]
    rules = [rule for part in parts for rule in part.get("rules") or ()]
    answer = api.merge(f"{ROLES}/clusterroles/{name}", {"rules": rules})
    assert answer.code == 200, answer.message


def _has(labels: dict[str, str], wanted: dict[str, str]) -> bool:
    return wanted.items() <= labels.items()


def bind(api: Api, place: str, user: str, role: str) -> None:
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": user, "namespace": place},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
    }
    assert apply(api, binding).code in {200, 201}


def test_an_editor_takes_a_run_through_its_whole_life(installed: Installed, plane: ControlPlane) -> None:
    ada, place = plane.user(ADA), installed.namespaces[0]
    run = f"{RUNS.format(place)}/hers"
    with installed.operator as operator, StandIn(plane.api):
        operator.wait_ready()
        manual = run_manifest(promotion={"mode": "Manual"}, suspend=True) | {"metadata": {"name": "hers"}}
        done(ada.create(RUNS.format(place), manual))
        wait_for(installed, run, "Suspended")
        done(ada.merge(run, {"spec": {"suspend": False}}))
        until(lambda: stands(ada, run, "Promoted")[1] == "AwaitingApproval", "a decision is asked for", 60)
        refused = ada.merge(run, {"spec": {"promotion": {"approve": 1}}})
        assert (refused.code, "ClusterRole ippo-approve" in refused.message) == (403, True), refused.body
        done(plane.user(CLEO).merge(run, {"spec": {"promotion": {"approve": 1}}}))
        wait_for(installed, run, "Succeeded")
        pods = done(ada.get(f"/api/v1/namespaces/{place}/pods")).body["items"]
        assert pods
        done(ada.delete(run))
        assert ada.get(run).code == 404


def done(answer: Answer) -> Answer:
    assert answer.code in {200, 201}, answer.message
    return answer


def test_an_editor_reads_nothing_of_other_namespaces(installed: Installed, plane: ControlPlane) -> None:
    ada, (own, other) = plane.user(ADA), installed.namespaces
    for pattern in (*READABLE, "/apis/ippo.dev/v1alpha1/{}/iterativepporuns"):
        assert ada.get(pattern.format(f"namespaces/{own}")).code == 200
        assert ada.get(pattern.format(f"namespaces/{other}")).code == 403
        assert ada.get(pattern.format("").replace("//", "/")).code == 403
    elsewhere = run_manifest() | {"metadata": {"name": "hers"}}
    assert ada.create(RUNS.format(other), elsewhere).code == 403


def test_an_editor_cannot_say_what_the_operator_says(installed: Installed, plane: ControlPlane) -> None:
    ada, place = plane.user(ADA), installed.namespaces[0]
    done(ada.create(RUNS.format(place), run_manifest() | {"metadata": {"name": "plain"}}))
    run = f"{RUNS.format(place)}/plain"
    assert ada.get(f"{run}/status").code == 200
    for verb in ("PUT", "PATCH"):
        kind = "application/merge-patch+json" if verb == "PATCH" else "application/json"
        assert ada.request(verb, f"{run}/status", {"status": {"progress": "9/9"}}, kind).code == 403
    done(ada.delete(run))


def test_a_viewer_reads_runs_and_no_more(installed: Installed, plane: ControlPlane) -> None:
    bob, place = plane.user(BOB), installed.namespaces[0]
    done(plane.api.create(RUNS.format(place), run_manifest() | {"metadata": {"name": "seen"}}))
    run = f"{RUNS.format(place)}/seen"
    done(bob.get(run))
    done(bob.get(f"{run}/status"))
    assert bob.merge(run, {"spec": {"suspend": True}}).code == 403
    assert bob.delete(run).code == 403
    assert bob.create(RUNS.format(place), run_manifest() | {"metadata": {"name": "his"}}).code == 403
    assert bob.get(f"/api/v1/namespaces/{place}/secrets").code == 403
    assert bob.get(RUNS.format(installed.namespaces[1])).code == 403
    done(plane.api.delete(run))


def test_a_namespaces_admin_installs_the_operator_once_its_rights_are_there(plane: ControlPlane) -> None:
    """As docs/installation.md says: rights are granted by somebody who has them."""
    place = make_namespace(plane.api, "cleos")
    for role in ("view", "edit", "admin"):
        aggregate(plane.api, role)
    bind(plane.api, place, "ada", "admin")
    ada, flags = plane.user(ADA), ("--set=watchNamespaces={cleos}", "--set=crds.install=false")
    refused = [o for o in objects(render(*flags, namespace=place)) if apply(ada, o, dry_run=True).code != 201]
    assert {o["kind"] for o in refused} == {"Role", "RoleBinding"}
    for manifest in objects(render(*flags, "--set=rbac.create=false", namespace=place)):
        done(apply(ada, manifest))


# Whatever a run says, its children stay in its namespace and off the nodes' own files and networks.

OUTSIDE = {
    *("namespace", "namespaces", "namespaceSelector", "nodeName", "hostPath", "hostNetwork", "hostPID", "hostIPC"),
    *("hostPort", "hostAliases", "securityContext", "privileged", "capabilities", "nfs", "csi", "projected"),
    *("automountServiceAccountToken", "ownerReferences", "args", "command", "initContainers"),
}


def test_the_schema_has_no_word_for_anything_outside_of_the_runs_namespace() -> None:
    crd = yaml.load((CHART / "files" / "crd-spec.yaml").read_text(), yaml.CSafeLoader)
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert set(_words(spec)) & OUTSIDE == set()


def _words(schema: Manifest) -> Iterator[str]:
    for name, child in schema.get("properties", {}).items():
        yield name
        yield from _words(child)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _words(schema[key])


@pytest.mark.parametrize(
    "spec",
    [
        {"artifacts": {"s3": {"bucket": "artifacts", "credentialsSecretName": "users-b/s3"}}},
        {"serviceAccountName": "users-b/default"},
        {"pods": {"common": {"volumes": [{"name": "v", "mountPath": "/host", "hostPath": {"path": "/"}}]}}},
        {"pods": {"common": {"volumes": [{"name": "v", "mountPath": "/x", "secret": {"secretName": "users-b/s3"}}]}}},
        {"pods": {"common": {"volumes": [{"name": "v", "mountPath": "/x", "configMap": {"name": "../b/c"}}]}}},
        {"pods": {"common": {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "b/s3", "key": "k"}}}]}}},
        {"pods": {"common": {"securityContext": {"privileged": True}}}},
        {"pods": {"common": {"hostNetwork": True}}},
        {"pods": {"common": {"labels": {"ippo.dev/run-uid": "another"}}}},
        {"collect": {"simulate": {"environment": {"name": "sr-funnel"}}, "namespace": "users-b"}},
    ],
    ids=lambda spec: "-".join(map(str, list(spec)[:1])),
)
def test_a_run_that_reaches_out_is_refused(installed: Installed, plane: ControlPlane, spec: dict[str, Any]) -> None:
    manifest = copy.deepcopy(run_manifest(**spec)) | {"metadata": {"name": "out"}}
    url = f"{RUNS.format(installed.namespaces[0])}?dryRun=All&fieldValidation=Strict"
    answer = plane.user(ADA).create(url, manifest)
    assert answer.code in {400, 422}, answer.body


def test_every_child_is_in_the_runs_own_namespace_and_has_no_token() -> None:
    run = cluster_run(pods=RICH, serviceAccountName="trainer")
    wanted = intent(run)
    children = [
        stage_config_map(run, wanted),
        stage_job(run, wanted, PLATFORM),
        serving_deployment(serving_context(run), POLICY),
        serving_service(serving_context(run)),
    ]
    for child in children:
        assert child["metadata"]["namespace"] == run.metadata.namespace
        assert [owner["uid"] for owner in child["metadata"]["ownerReferences"]] == [run.metadata.uid]
    for pod in (children[1]["spec"]["template"]["spec"], children[2]["spec"]["template"]["spec"]):
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC", "nodeName"} & set(pod)
