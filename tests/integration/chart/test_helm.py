"""`helm install`, `upgrade` and `uninstall` on a real API server; above all, what becomes of the CRD and the runs."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.kit.api_runs import create_run
from tests.kit.control_plane import RUNS, Api
from tests.kit.toy_cluster import run_manifest
from tests.kit.waiting import until

from .conftest import make_namespace
from .helm import CHART, USER_ROLES, helm

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/iterativepporuns.ippo.dev"
PLACE = RUNS.format("default")


def run_helm(kubeconfig: Path, *arguments: str) -> str:
    done = helm(*arguments, "--namespace=releases", kubeconfig=kubeconfig)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def _empty_cluster(admin: Api, kubeconfig: Path) -> Iterator[None]:
    make_namespace(admin, "default")
    make_namespace(admin, "releases")
    yield
    for release in run_helm(kubeconfig, "list", "--short").split():
        run_helm(kubeconfig, "uninstall", release)
    admin.delete(CRD)
    until(lambda: admin.get(CRD).code == 404, "the CRD is gone")


def install(kubeconfig: Path, *flags: str, release: str = "ippo-operator", chart: Path = CHART) -> str:
    return run_helm(kubeconfig, "upgrade", "--install", release, str(chart), *flags)


def put_run(api: Api, name: str) -> None:
    until(lambda: api.get(PLACE).code == 200, "the CRD is served")
    create_run(api, "default", name)


def test_uninstall_keeps_the_crd_and_the_runs_and_install_takes_them_over(admin: Api, kubeconfig: Path) -> None:
    assert "rollout status deployment/ippo-operator" in install(kubeconfig)
    put_run(admin, "kept")
    run_helm(kubeconfig, "uninstall", "ippo-operator")
    assert admin.get("/apis/apps/v1/namespaces/releases/deployments/ippo-operator").code == 404
    before = admin.get(f"{PLACE}/kept").body
    install(kubeconfig)
    after = admin.get(f"{PLACE}/kept").body
    assert before["metadata"]["uid"] == after["metadata"]["uid"]


def test_a_release_of_another_name_says_whose_the_kept_crd_is(admin: Api, kubeconfig: Path) -> None:
    install(kubeconfig)
    run_helm(kubeconfig, "uninstall", "ippo-operator")
    refused = helm("install", "other", str(CHART), "--namespace=releases", kubeconfig=kubeconfig)
    assert refused.returncode != 0
    assert "iterativepporuns.ippo.dev" in refused.stderr
    install(kubeconfig, "--set=crds.install=false", release="other")
    run_helm(kubeconfig, "uninstall", "other")
    install(kubeconfig, "--take-ownership", release="other")
    assert admin.get(CRD).body["metadata"]["annotations"]["meta.helm.sh/release-name"] == "other"


def test_without_keep_the_crd_goes_with_the_release(admin: Api, kubeconfig: Path) -> None:
    install(kubeconfig, "--set=crds.keep=false")
    run_helm(kubeconfig, "uninstall", "ippo-operator")
    until(lambda: admin.get(CRD).code == 404, "the CRD is gone")


def test_switching_the_crd_off_later_leaves_it_in_the_cluster(admin: Api, kubeconfig: Path) -> None:
    install(kubeconfig)
    put_run(admin, "stays")
    install(kubeconfig, "--set=crds.install=false")
    assert admin.get(f"{PLACE}/stays").code == 200


def test_without_the_crd_nothing_cluster_wide_is_made(admin: Api, kubeconfig: Path) -> None:
    make_namespace(admin, "team-a")
    install(kubeconfig, "--set=crds.install=false", "--set=watchNamespaces={team-a}")
    assert admin.get(CRD).code == 404
    for kind in ("clusterroles", "clusterrolebindings"):
        names = [
            item["metadata"]["name"] for item in admin.get(f"/apis/rbac.authorization.k8s.io/v1/{kind}").body["items"]
        ]
        assert not {"ippo-operator", *USER_ROLES} & set(names)
    assert admin.get("/apis/rbac.authorization.k8s.io/v1/namespaces/team-a/roles/ippo-operator").code == 200


def test_an_upgrade_brings_new_fields_and_stored_runs_stay_as_they_are(
    admin: Api, kubeconfig: Path, tmp_path: Path
) -> None:
    old = older_chart(tmp_path)
    install(kubeconfig, chart=old)
    put_run(admin, "old")
    with_new_field = run_manifest(historyLimit=3) | {"metadata": {"name": "new"}}
    refused = admin.create(f"{PLACE}?fieldValidation=Strict", with_new_field)
    assert (refused.code, "historyLimit" in refused.message) == (400, True)
    before = admin.get(f"{PLACE}/old").body
    install(kubeconfig)
    until(
        lambda: admin.create(f"{PLACE}?fieldValidation=Strict&dryRun=All", with_new_field).code == 201,
        "the new field is served",
    )
    after = admin.get(f"{PLACE}/old").body
    assert (before["metadata"]["uid"], before["metadata"]["generation"]) == (
        after["metadata"]["uid"],
        after["metadata"]["generation"],
    )
    assert after["spec"] | before["spec"] == after["spec"]
    assert admin.merge(f"{PLACE}/old", {"spec": {"suspend": True}}).code == 200
    # and back again, as `helm rollback` does it
    run_helm(kubeconfig, "rollback", "ippo-operator", "1")
    assert admin.get(f"{PLACE}/old").body["spec"]["suspend"] is True


def older_chart(tmp_path: Path) -> Path:
    """A version of the chart whose CRD did not have spec.historyLimit yet."""
    chart = Path(shutil.copytree(CHART, tmp_path / "older"))
    path = chart / "files" / "crd-spec.yaml"
    crd = yaml.load(path.read_text(), yaml.CSafeLoader)
    root = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    del root["properties"]["spec"]["properties"]["historyLimit"]
    root["x-kubernetes-validations"] = [
        rule for rule in root["x-kubernetes-validations"] if "historyLimit" not in rule["rule"]
    ]
    path.write_text(yaml.safe_dump(crd, sort_keys=False))
    meta = chart / "Chart.yaml"
    meta.write_text(yaml.safe_dump(yaml.safe_load(meta.read_text()) | {"version": "0.0.9"}))
    return chart


def test_the_sample_run_comes_with_the_second_step(admin: Api, kubeconfig: Path) -> None:
    sample = ("--set=sampleRun.enabled=true", "--set=sampleRun.bucket=artifacts")
    refused = helm("install", "ippo-operator", str(CHART), *sample, "--namespace=releases", kubeconfig=kubeconfig)
    assert (refused.returncode, "CRD" in refused.stderr) == (1, True), refused.stderr
    install(kubeconfig)
    put_run(admin, "other")
    notes = install(kubeconfig, *sample)
    assert "get iterativepporun sample --watch" in notes
    assert admin.get(f"{RUNS.format('releases')}/sample").code == 200
    run_helm(kubeconfig, "uninstall", "ippo-operator")
    assert admin.get(f"{RUNS.format('releases')}/sample").code == 404
    assert admin.get(f"{PLACE}/other").code == 200
