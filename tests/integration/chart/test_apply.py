"""Every variant on a real API server: each object is accepted as it is, twice, and the pods are restricted."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ippo_operator.manifests.gateway import GatewayContext, gateway_deployment
from ippo_operator.manifests.jobs import stage_job
from ippo_operator.manifests.serving import serving_deployment

from tests.kit.cluster_objects import PLATFORM, POLICY, cluster_run, intent, serving_context
from tests.kit.control_plane import RUNS, Api
from tests.kit.waiting import until

from .conftest import make_namespace
from .helm import ROOT, VARIANTS, Manifest, apply, need, objects, of_kind, path, render

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
OUR_CRD = f"{CRDS}/iterativepporuns.ippo.dev"
ANYTHING = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def foreign_crd(kind: str) -> Manifest:
    """A small stand-in for a CRD of the Prometheus operator: the spec's outline, as far as the chart uses it."""
    properties: dict[str, Any] = {
        "ServiceMonitor": {
            "selector": ANYTHING,
            "namespaceSelector": ANYTHING,
            "endpoints": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {name: {"type": "string"} for name in ("port", "path", "interval")},
                },
            },
        },
        "PrometheusRule": {
            "groups": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": {"type": "string"},
                        "interval": {"type": "string"},
                        "rules": {"type": "array", "items": ANYTHING},
                    },
                },
            }
        },
    }[kind]
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}}
    plural = f"{kind.lower()}s"
    names = {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.monitoring.coreos.com"},
        "spec": {"group": "monitoring.coreos.com", "scope": "Namespaced", "names": names, "versions": [version]},
    }


@pytest.fixture(scope="module", autouse=True)
def crds(plane: Any) -> Iterator[None]:
    """Those of Prometheus' operator; ours, which the first variant brings, stays until the end."""
    for kind in ("ServiceMonitor", "PrometheusRule"):
        assert plane.api.create(CRDS, foreign_crd(kind)).code in {201, 409}
        url = f"/apis/monitoring.coreos.com/v1/{kind.lower()}s"
        until(lambda url=url: plane.api.get(url).code == 200, f"{kind} is served")
    yield
    remove_crd(plane.api)


def remove_crd(api: Api) -> None:
    api.delete(OUR_CRD)
    until(lambda: api.get(OUR_CRD).code == 404, "the CRD is gone")


@pytest.fixture
def clean(admin: Api) -> Iterator[list[Manifest]]:
    """Objects to be deleted after the test; the CRD stays."""
    applied: list[Manifest] = []
    yield applied
    for manifest in reversed(applied):
        if manifest["kind"] not in {"Namespace", "CustomResourceDefinition"}:
            admin.delete(path(manifest))


def put(api: Api, manifests: list[Manifest], clean: list[Manifest], **how: bool) -> None:
    for manifest in manifests:
        if manifest["kind"] == "IterativePPORun":
            served = RUNS.format(manifest["metadata"]["namespace"])
            until(lambda url=served: api.get(url).code == 200, "the CRD is served")
        answer = apply(api, manifest, **how)
        assert answer.code in {200, 201}, f"{manifest['kind']} {manifest['metadata']['name']}: {answer.message}"
        clean.append(manifest)


@pytest.mark.parametrize("values", VARIANTS, ids=lambda path: path.stem)
def test_a_variant_is_accepted_dry_and_for_real(admin: Api, clean: list[Manifest], values: Path) -> None:
    for name in ("ops", "team-a", "team-b"):
        make_namespace(admin, name)
    manifests = objects(render(f"--values={values}"))
    runs = of_kind(manifests, "IterativePPORun")
    rest = [manifest for manifest in manifests if manifest not in runs]
    for manifest in rest:
        answer = apply(admin, manifest, dry_run=True)
        assert answer.code in {200, 201}, answer.message
    put(admin, rest, clean)
    versions = [admin.get(path(manifest)).body["metadata"]["resourceVersion"] for manifest in rest]
    for manifest in runs:
        until(lambda: admin.get(RUNS.format("ops")).code == 200, "the CRD is served")
        answer = apply(admin, manifest, dry_run=True)
        assert answer.code == 201, answer.message
    put(admin, runs, clean)
    # Applied again, nothing changes: GitOps tools see no drift.
    for manifest in manifests:
        assert list(dropped(manifest, admin.get(path(manifest)).body)) == []
    put(admin, rest, [])
    generations = [admin.get(path(m)).body["metadata"].get("generation") for m in of_kind(rest, "Deployment")]
    assert generations == [1]
    unchanged = [m for m, v in zip(rest, versions, strict=True) if _version(admin, m) == v]
    assert {m["kind"] for m in rest} - {m["kind"] for m in unchanged} <= {"CustomResourceDefinition"}


def dropped(wanted: Any, found: Any, where: str = "") -> Iterator[str]:
    """Fields that the API server does not keep as they were applied: Argo CD calls them out of sync for ever."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for name, value in wanted.items():
            yield from dropped(value, found.get(name), f"{where}.{name}")
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for number, (mine, kept) in enumerate(zip(wanted, found, strict=True)):
            yield from dropped(mine, kept, f"{where}[{number}]")
    elif str(wanted) != str(found):  # quantities become strings; that is no difference for the tools
        yield f"{where}: {wanted} became {found}"


def _version(api: Api, manifest: Manifest) -> str:
    return str(api.get(path(manifest)).body["metadata"]["resourceVersion"])


@pytest.mark.parametrize("values", VARIANTS, ids=lambda path: path.stem)
def test_the_operators_pod_is_restricted(admin: Api, values: Path) -> None:
    make_namespace(admin, "strict", **{"pod-security.kubernetes.io/enforce": "restricted"})
    make_namespace(admin, "ops")
    [deployment] = of_kind(objects(render(f"--values={values}")), "Deployment")
    template = deployment["spec"]["template"]
    metadata = template["metadata"] | {"name": "operator"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
    answer = admin.create("/api/v1/namespaces/strict/pods?dryRun=All&fieldValidation=Strict", pod)
    assert answer.code == 201, answer.message
    [container] = template["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_network_policies_of_the_security_page_select_the_pods_of_runs(admin: Api, clean: list[Manifest]) -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    blocks = [code for code in re.findall(r"^```yaml\n(.*?)^```$", page, re.M | re.S) if "NetworkPolicy" in code]
    policies = [policy for block in blocks for policy in objects(block)]
    for policy in policies:
        policy["metadata"]["namespace"] = make_namespace(admin, "ops")
    put(admin, policies, clean, dry_run=True)
    run = cluster_run(serve={})
    server = serving_deployment(serving_context(run), POLICY)["spec"]["template"]
    stage = stage_job(run, intent(run), PLATFORM)["spec"]["template"]
    gateway = gateway_deployment(GatewayContext(serving_context(run)))["spec"]["template"]
    by_name = {policy["metadata"]["name"]: policy["spec"] for policy in policies}
    chosen = {
        name: [selects(spec["podSelector"], pod["metadata"]["labels"]) for pod in (stage, server, gateway)]
        for name, spec in by_name.items()
    }
    assert chosen == {
        "runs": [True, True, True],
        "servers-of-runs": [False, True, False],
        "servers-behind-gateways": [False, True, False],
        "gateways": [False, False, True],
    }
    [peer] = by_name["runs"]["ingress"][0]["from"]
    assert selects(peer["podSelector"], stage["metadata"]["labels"])
    [peer] = by_name["servers-behind-gateways"]["ingress"][0]["from"]
    assert selects(peer["podSelector"], gateway["metadata"]["labels"])
    [peer] = by_name["gateways"]["egress"][0]["to"]
    assert selects(peer["podSelector"], server["metadata"]["labels"])
    for name, pod in (("servers-of-runs", server), ("servers-behind-gateways", server), ("gateways", gateway)):
        ports = {port["port"] for rule in by_name[name]["ingress"] for port in rule["ports"]}
        assert ports <= {port["name"] for port in pod["spec"]["containers"][0]["ports"]}


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a label selector, of equal labels and lists of values, takes these labels."""
    values = {rule["key"]: rule["values"] for rule in selector.get("matchExpressions", ())}
    equal = selector.get("matchLabels", {}).items() <= labels.items()
    return equal and all(labels.get(key) in several for key, several in values.items())


def test_kubectl_applies_the_plain_manifests(admin: Api, kubeconfig: Path, clean: list[Manifest]) -> None:
    remove_crd(admin)
    plain = ROOT / "deploy" / "ippo-operator.yaml"
    clean += objects(plain.read_text())
    command = [need("kubectl"), "apply", "--server-side", "-f", str(plain)]
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
    for _ in range(2):  # an upgrade is the same command
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("serverside-applied") == len(clean)
    deployment = admin.get("/apis/apps/v1/namespaces/ippo-system/deployments/ippo-operator").body
    assert deployment["metadata"]["generation"] == 1
