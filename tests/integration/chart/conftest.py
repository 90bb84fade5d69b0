"""One API server while tests of this folder run, without the CRD: the chart brings it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.control_plane import Api, ControlPlane, find_assets

from .helm import need


@pytest.fixture(scope="package")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    need("helm")
    assets = find_assets()
    if assets is None:
        pytest.skip("needs etcd and kube-apiserver: setup-envtest prints a folder with them for KUBEBUILDER_ASSETS")
    with ControlPlane(assets, tmp_path_factory.mktemp("chart")) as plane:
        yield plane


@pytest.fixture
def admin(plane: ControlPlane) -> Api:
    """An administrator of the cluster."""
    return plane.api


def make_namespace(api: Api, name: str, **labels: str) -> str:
    """A namespace, there already or not."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    assert api.create("/api/v1/namespaces", body).code in {201, 409}
    return name


@pytest.fixture
def kubeconfig(plane: ControlPlane) -> Path:
    """Of the administrator."""
    return plane.kubeconfig
