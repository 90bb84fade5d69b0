"""`ippo` on a real API server, as a user who may do no more than edit one namespace."""

import base64
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from ippo_operator.cli.diff.cluster import LAST_APPLIED
from moto.server import ThreadedMotoServer

from tests.kit.api_runs import create_run, stands, wait_for
from tests.kit.control_plane import RUNS, USERS, Api, ControlPlane, find_assets
from tests.kit.ippo_command import Ippo, ippo_command
from tests.kit.operator_process import Operator
from tests.kit.toy_cluster import run_manifest
from tests.kit.toy_controllers import StandIn
from tests.kit.waiting import until

RBAC = "/apis/rbac.authorization.k8s.io/v1"
NAMESPACE = "ada"
TOKEN = next(token for token, user in USERS.items() if user == "ada")
EDIT: list[dict[str, Any]] = [
    {
        "apiGroups": ["ippo.dev"],
        "resources": ["iterativepporuns"],
        "verbs": ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"],
    },
    {"apiGroups": [""], "resources": ["pods", "pods/log", "secrets"], "verbs": ["get", "list", "watch"]},
]
"""What the chart's ippo-edit and Kubernetes' own edit give, as far as `ippo` needs it."""


@pytest.fixture(scope="module")
def cluster(api: Api, control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator, a stand-in for Job controller and kubelet, and Ada, who may edit one namespace."""
    answer = api.create(
        "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    )
    assert answer.code == 201, answer.message
    kinds = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "edit-runs"}}
    role = kinds | {"kind": "Role", "rules": EDIT}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "edit-runs"}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ada"}
    binding = kinds | {"kind": "RoleBinding", "roleRef": reference, "subjects": [subject]}
    for plural, body in (("roles", role), ("rolebindings", binding)):
        made = api.create(f"{RBAC}/namespaces/{NAMESPACE}/{plural}", body)
        assert made.code == 201, made.message
    flags = ("--lease-name", "cli", "--resync-seconds", "20")
    folder = tmp_path_factory.mktemp("cli")
    with StandIn(api), Operator(control_plane, folder, *flags) as operator:
        operator.wait_ready()
        yield operator
        assert operator.stop() == 0


@pytest.fixture
def ippo(
    cluster: Operator,
    control_plane: ControlPlane,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Ippo:
    """Runs a command as Ada, in a folder of its own."""
    path = control_plane.kubeconfig_of(TOKEN, "ada.kubeconfig")
    config = json.loads(path.read_text())
    config["contexts"][0]["context"]["namespace"] = NAMESPACE
    path.write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.chdir(tmp_path)

    return ippo_command(capsys)


def manifest(folder: Path, name: str, **spec: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(json.dumps(run_manifest(**spec) | {"metadata": {"name": name, "namespace": NAMESPACE}}))
    return path


def test_a_candidate_is_approved_and_the_run_watched_to_its_end(
    api: Api, cluster: Operator, ippo: Ippo, tmp_path: Path
) -> None:
    spec: dict[str, Any] = {"promotion": {"mode": "Manual"}, "iterations": {"max": 2}}
    file = str(manifest(tmp_path, "asks", **spec))
    assert ippo("diff", "-f", file) == (1, f"asks would be created in namespace {NAMESPACE}\n", "")
    path = create_run(api, NAMESPACE, "asks", **spec)
    until(lambda: stands(api, path, "Promoted")[1] == "AwaitingApproval", "the candidate waits", 90)
    shown = ippo("status", "asks")
    assert shown.out.startswith("asks: Waiting, 0 of 2 iterations done")
    assert "asks you" in shown.out
    assert "`ippo approve asks`" in shown.out
    assert "AwaitingApproval" in ippo("explain", "asks").out
    assert "asks   Waiting" in ippo("status").out

    approved = ippo("approve", "asks")
    assert approved.code == 0
    assert approved.out.endswith("the candidate of iteration 1 is approved\n")
    assert ippo("reject", "asks", "2").code == 0
    watched = ippo("status", "asks", "--watch")
    assert watched.code == 0, watched
    assert "Succeeded, 2/2: 2 of 2 iterations are done" in watched.out
    document = json.loads(ippo("status", "asks", "--json").out)
    assert [row["iteration"] for row in document["iterations"]] == [1, 2]
    assert document["best"]["iteration"] == 1
    managers = {entry["manager"] for entry in api.get(path).body["metadata"]["managedFields"]}
    assert "ippo" in managers
    assert ippo("approve", "asks").code == 64


def test_suspend_and_resume_wait_until_it_is_so(api: Api, cluster: Operator, ippo: Ippo) -> None:
    path = create_run(api, NAMESPACE, "naps", suspend=True)
    until(lambda: stands(api, path, "Suspended")[0] == "True", "it is suspended")
    assert ippo("status", "naps").out.startswith("naps: Suspended")
    assert ippo("suspend", "naps").out == "naps is suspended already\n"
    resumed = ippo("resume", "naps", "--wait")
    assert resumed.code == 0
    assert resumed.out.startswith("naps goes on\nnaps: ")
    wait_for(api, path, "Succeeded", cluster)
    assert ippo("suspend", "naps").code == 64


def test_who_else_writes_a_field_is_named(api: Api, cluster: Operator, ippo: Ippo, tmp_path: Path) -> None:
    document = json.loads(manifest(tmp_path, "synced", suspend=False, iterations={"max": 9}).read_text())
    answer = api.apply(f"{RUNS.format(NAMESPACE)}/synced", document, manager="argocd-controller")
    assert answer.code == 201, answer.message
    said = ippo("suspend", "synced", "--wait")
    assert said.code == 0
    assert "spec.suspend is also written by argocd-controller: its next sync or apply may undo this" in said.err


def test_diff_says_what_the_api_server_would(api: Api, cluster: Operator, ippo: Ippo, tmp_path: Path) -> None:
    path = create_run(api, NAMESPACE, "kept")
    applied = json.loads(manifest(tmp_path, "kept").read_text())
    api.merge(path, {"metadata": {"annotations": {LAST_APPLIED: json.dumps(applied)}}})
    wait_for(api, path, "Succeeded", cluster)
    assert ippo("diff", "-f", str(manifest(tmp_path, "kept"))).code == 0
    said = ippo("diff", "-f", str(manifest(tmp_path, "kept", iterations={"max": 4})))
    assert (said.code, said.out) == (1, "spec.iterations.max: 1 → 4  allowed\n")
    said = ippo("diff", "-f", str(manifest(tmp_path, "kept", seed=5)))
    assert said.code == 64
    assert "REFUSED" in said.out
    refused = api.merge(path, {"spec": {"seed": 5}})
    assert refused.code == 422, "the API server agrees"


def test_diff_foresees_what_kubectl_applies(api: Api, cluster: Operator, ippo: Ippo, tmp_path: Path) -> None:
    assets = find_assets()
    if assets is None or not (assets / "kubectl").exists():
        pytest.skip("needs kubectl beside kube-apiserver, where setup-envtest puts it")

    def apply(**spec: Any) -> str:
        file = str(manifest(tmp_path, "grown", **spec))
        command = [str(assets / "kubectl"), "apply", "-f", file]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    apply(suspend=True, serviceAccountName="models")
    assert ippo("resume", "grown").code == 0
    foreseen = ippo("diff", "-f", str(manifest(tmp_path, "grown", iterations={"max": 3})))
    assert foreseen.out.splitlines() == [
        "spec.iterations.max: 1 → 3  allowed",
        'spec.serviceAccountName: "models" → nothing  allowed',
    ]
    assert "configured" in apply(iterations={"max": 3})
    spec = api.get(f"{RUNS.format(NAMESPACE)}/grown").body["spec"]
    assert (spec["iterations"]["max"], "serviceAccountName" in spec, spec["suspend"]) == (3, False, False)
    assert ippo("diff", "-f", str(manifest(tmp_path, "grown", iterations={"max": 3}))).code == 0


def test_logs_say_what_there_is(api: Api, cluster: Operator, ippo: Ippo) -> None:
    """No kubelet here: what counts is that the API server's answers are understood."""
    path = create_run(api, NAMESPACE, "talks")
    wait_for(api, path, "Succeeded", cluster)
    said = ippo("logs", "talks")
    assert said.err.startswith("--- evaluate of iteration 1, attempt 1, pod talks-")
    said = ippo("logs", "talks", "--stage", "collect", "--shard", "9")
    assert said.code == 75
    assert "has no shard 9" in said.err


def test_a_report_with_the_runs_own_credentials(
    api: Api, cluster: Operator, ippo: Ippo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = b"[default]\naws_access_key_id = k\naws_secret_access_key = s\nregion = us-east-1\n"
    secret = {"metadata": {"name": "keys"}, "data": {"credentials": base64.b64encode(content).decode()}}
    assert api.create(f"/api/v1/namespaces/{NAMESPACE}/secrets", secret).code == 201
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        url = f"http://{host}:{port}"
        keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=url, **keys).create_bucket(Bucket="artifacts")  # type: ignore[call-overload]
        s3 = {"bucket": "artifacts", "region": "us-east-1", "credentialsSecretName": "keys"}
        path = create_run(api, NAMESPACE, "tells", artifacts={"s3": s3})
        wait_for(api, path, "Succeeded", cluster)
        said = ippo("report", "tells", "--credentials-from-secret", "--endpoint-url", url)
        assert said.code == 0, said.err
        assert said.out.endswith("tells-report.html\n")
        assert "has none of the run's results" in said.err, "the stand-in's stages publish nothing"
        assert "tells" in (tmp_path / "tells-report.html").read_text()
    finally:
        moto.stop()


def test_what_ada_may_not_and_where_things_are(api: Api, cluster: Operator, ippo: Ippo) -> None:
    create_run(api, NAMESPACE, "near-miss", suspend=True)
    assert "did you mean near-miss?" in ippo("status", "nearmiss").err
    said = ippo("status", "near-miss", "-n", "default")
    assert said.code == 64
    assert said.err.startswith("not allowed: ")
    assert "ask for the role edit" in said.err
    assert ippo("status", "-A").code == 64


def test_watch_follows_a_run_that_is_deleted(api: Api, cluster: Operator, ippo: Ippo) -> None:
    path = create_run(api, NAMESPACE, "goes", suspend=True)
    timer = threading.Timer(1.0, api.delete, [path])
    timer.start()
    said = ippo("status", "goes", "--watch")
    timer.join()
    assert (said.code, said.err) == (1, "the run goes was deleted\n")
