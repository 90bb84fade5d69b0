"""helm and kubectl for tests, and the chart's manifests as objects."""

import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kit.control_plane import Answer, Api, find_assets

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "ippo-operator"
VARIANTS = sorted((Path(__file__).parent / "values").glob("*.yaml"))
Manifest = dict[str, Any]
USER_ROLES = ("ippo-view", "ippo-edit", "ippo-approve")
"""ClusterRoles of people, not of the operator."""

_CLUSTER_WIDE = {
    *("ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "Namespace"),
    *("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
}


def find(program: str) -> str | None:
    """helm or kubectl: $HELM or $KUBECTL, PATH, or the folder with etcd and kube-apiserver."""
    path = os.environ.get(program.upper()) or shutil.which(program)
    if path:
        return path
    assets = find_assets()
    beside = assets / program if assets is not None else None
    return str(beside) if beside is not None and beside.exists() else None


def need(program: str) -> str:
    """The program; skips the test without it."""
    path = find(program)
    if path is None:
        pytest.skip(f"needs {program}: in PATH, or named by ${program.upper()}")
    return path


def helm(*arguments: str, kubeconfig: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs helm; its exit code is for the caller to judge."""
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig or os.devnull)}
    command = [need("helm"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def render(*arguments: str, chart: Path = CHART, namespace: str = "ops", release: str = "ippo-operator") -> str:
    """`helm template`."""
    rendered = _rendered if chart == CHART else _rendered.__wrapped__  # copies of the chart are there to be changed
    return rendered("template", release, str(chart), "--namespace", namespace, *arguments)


@functools.cache
def _rendered(*command: str) -> str:
    done = helm(*command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(text: str) -> list[Manifest]:
    """The documents of a YAML file."""
    return [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """Those of a kind."""
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def container(manifests: list[Manifest]) -> Manifest:
    """The operator's container."""
    [deployment] = of_kind(manifests, "Deployment")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def path(manifest: Manifest) -> str:
    """The object's URL path."""
    version, kind, metadata = manifest["apiVersion"], manifest["kind"], manifest["metadata"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    scope = "" if kind in _CLUSTER_WIDE else f"/namespaces/{metadata['namespace']}"
    plural = f"{kind[:-1].lower()}ies" if kind.endswith("y") else f"{kind.lower()}s"
    return f"{root}{scope}/{plural}/{metadata['name']}"


def apply(api: Api, manifest: Manifest, dry_run: bool = False) -> Answer:
    """As `kubectl apply --server-side` does; unknown fields are refused."""
    flags = "fieldValidation=Strict&force=true&fieldManager=tests" + ("&dryRun=All" if dry_run else "")
    return api.request("PATCH", f"{path(manifest)}?{flags}", manifest, "application/apply-patch+yaml")


def leaves(values: Manifest, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted paths of all values that are no sections, as README.md lists them."""
    for name, value in values.items():
        where = f"{prefix}{name}"
        if isinstance(value, dict) and value and where not in {"resources", "strategy", "metrics.dashboard.labels"}:
            yield from leaves(value, f"{where}.")
        else:
            yield where, value
