"""docs/disaster-recovery.md: every command of it, between two API servers of which the first one is lost."""

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ippo_operator.api.crd import custom_resource_definition

from tests.e2e import page
from tests.kit.control_plane import RUNS, Api, ControlPlane, find_assets
from tests.kit.operator_process import Operator
from tests.kit.toy_cluster import run_manifest
from tests.kit.toy_controllers import APPS, JOBS, StandIn
from tests.kit.waiting import until

PAGE = "docs/disaster-recovery.md"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
NAMESPACE = "team-a"
PATHS = {name: f"{RUNS.format(NAMESPACE)}/{name}" for name in ("served", "over", "old")}
HELD = {"served-i2-improve-a1", "old-i1-fit-q-a1"}
"""Jobs that the cluster was lost with."""
GOES_ON = {
    "served-i2-improve-a2",
    "served-i2-evaluate-a1",
    "old-i1-fit-q-a2",
    "old-i1-improve-a1",
    "old-i1-evaluate-a1",
}


class Losing(StandIn):
    """Never ends the held Jobs."""

    def _run(self, job: dict[str, Any]) -> None:
        if job["metadata"]["name"].rpartition("-")[0] not in HELD:
            super()._run(job)


class Shell:
    """Carries out blocks of the page, one after the other, each with the page's settings."""

    def __init__(self, plane: ControlPlane, kubectl: Path, settings: dict[str, str]) -> None:
        self._environment = {
            **os.environ,
            "KUBECONFIG": str(plane.kubeconfig),
            "PATH": f"{kubectl.parent}:{os.environ['PATH']}",
        }
        self._settings = page.with_settings(blocks()[0], settings).code

    def run(self, *chosen: page.Block) -> str:
        script = "\n".join(["set -euo pipefail", self._settings, *(block.code for block in chosen)])
        done = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, env=self._environment, cwd=page.ROOT, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def blocks() -> list[page.Block]:
    return page.blocks(PAGE)


def phase(api: Api, name: str) -> tuple[str, str, int]:
    status = api.get(PATHS[name]).body.get("status") or {}
    ready = next((c["status"] for c in status.get("conditions", ()) if c["type"] == "Succeeded"), "")
    return ready, str(status.get("stage")), status.get("iteration", 0)


def prefixes(api: Api) -> dict[str, set[str]]:
    """Where the stages of each run look for artifacts."""
    found: dict[str, set[str]] = {}
    for item in api.get(f"/api/v1/namespaces/{NAMESPACE}/configmaps").body["items"]:
        if "spec.json" in item.get("data", {}):
            spec = json.loads(item["data"]["spec.json"])
            found.setdefault(spec["run"], set()).add(spec["store"]["s3"]["prefix"])
    return found


def lose_a_cluster(plane: ControlPlane, kubectl: Path, settings: dict[str, str], folder: Path) -> dict[str, str]:
    """Three runs, the backup of the page, and the end; returns the UIDs that the runs had."""
    api = plane.api
    assert api.create(CRDS, custom_resource_definition()).code == 201
    until(lambda: api.get(RUNS.format("default")).code == 200, "the CRD is served")
    assert api.create("/api/v1/namespaces", _named("Namespace", NAMESPACE)).code == 201
    secret = _named("Secret", "keys") | {"data": {"credentials": base64.b64encode(b"[default]").decode()}}
    assert api.create(f"/api/v1/namespaces/{NAMESPACE}/secrets", secret).code == 201
    s3 = {"s3": {"bucket": "artifacts", "prefix": "sales", "credentialsSecretName": "keys"}}
    specs: dict[str, dict[str, Any]] = {
        "served": {"iterations": {"max": 2}, "serve": {"engine": "Transformers"}},
        "over": {"serve": {"engine": "Transformers"}},
        "old": {},
    }
    for name, spec in specs.items():
        manifest = run_manifest(artifacts=s3, **spec) | {"metadata": {"name": name}}
        assert api.create(RUNS.format(NAMESPACE), manifest).code == 201
    with Losing(api) as stages, Operator(plane, folder, "--lease-name", "first") as operator:
        operator.wait_ready()
        until(lambda: phase(api, "over")[0] == "True", "a run is over", 120)
        until(lambda: phase(api, "served")[1:] == ("improve", 2), "a run is under way", 120)
        until(lambda: phase(api, "old")[1] == "fit-q", "another one too", 60)
        operator.kill()
        assert stages.errors == []
    assert api.merge(f"{PATHS['old']}/status", {"status": {"artifacts": None}}).code == 200  # as up to 0.2
    Shell(plane, kubectl, settings).run(*(block for block in blocks() if block.section == "Back up"))
    return {name: api.get(path).body["metadata"]["uid"] for name, path in PATHS.items()}


def _named(kind: str, name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}


def an_operators_deployment(api: Api) -> None:
    """Of an operator that is there already; the test's own process stands for its pod."""
    assert api.create("/api/v1/namespaces", _named("Namespace", "ippo-system")).code == 201
    labels = {"app": "ippo-operator"}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "operator", "image": "operator:test"}]},
    }
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    made = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "ippo-operator"}, "spec": spec}
    assert api.create(f"{APPS}/namespaces/ippo-system/deployments", made).code == 201


def test_the_page_brings_runs_into_another_cluster_and_they_go_on(tmp_path: Path) -> None:
    assets = find_assets()
    if assets is None or not (assets / "kubectl").exists():
        pytest.skip("needs etcd, kube-apiserver and kubectl in one folder, where setup-envtest puts them")
    settings = {"BACKUP": str(tmp_path / "backup"), "NAMESPACE": NAMESPACE, "SECRET": "keys"}
    with ControlPlane(assets, tmp_path / "first") as plane:
        uids = lose_a_cluster(plane, assets / "kubectl", settings, tmp_path)
    with ControlPlane(assets, tmp_path / "second") as plane:
        api = plane.api
        an_operators_deployment(api)
        first, *others = blocks()
        shown = Shell(plane, assets / "kubectl", settings).run(*(b for b in others if b.section != "Back up"))
        rows = [line.split() for line in shown.splitlines()[-3:]]
        assert sorted((name, folder) for _, name, folder, _ in rows) == sorted(
            (name, f"{name}/{uid}") for name, uid in uids.items()
        )
        assert api.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/keys").body["data"]
        with StandIn(api) as stages, Operator(plane, tmp_path, "--lease-name", "second") as operator:
            operator.wait_ready()
            for name in PATHS:
                until(lambda name=name: phase(api, name)[0] == "True", f"{name} is done", 120)
            until(lambda: _available(api) == {"served": 1, "over": 1}, "servers are back", 60)
            ran = {name.rpartition("-")[0] for name in stages.ran}
            assert ran == GOES_ON
            assert prefixes(api) == {name: {f"sales/{name}/{uids[name]}"} for name in ("served", "old")}
            assert _fetched(api) == {name: f"sales/{name}/{uids[name]}" for name in ("served", "over")}
            assert stages.errors == []
            assert operator.stop() == 0
        assert len(api.get(f"{JOBS}/namespaces/{NAMESPACE}/jobs").body["items"]) == len(ran)
    assert first.code.startswith("BACKUP=")


def _deployments(api: Api) -> list[dict[str, Any]]:
    return list(api.get(f"{APPS}/namespaces/{NAMESPACE}/deployments").body["items"])


def _available(api: Api) -> dict[str, int]:
    found = {item["metadata"]["name"]: item.get("status") or {} for item in _deployments(api)}
    return {name: status.get("availableReplicas", 0) for name, status in found.items()}


def _fetched(api: Api) -> dict[str, str]:
    """Where each run's servers have their policy from."""
    found = {}
    for item in _deployments(api):
        [fetch] = item["spec"]["template"]["spec"]["initContainers"]
        place = json.loads(fetch["command"][fetch["command"].index("--store") + 1])
        found[item["metadata"]["name"]] = place["s3"]["prefix"]
    return found
