"""One API server per session and version, with the CRD of this tree installed."""

from collections.abc import Iterator

import pytest
from ippo_operator.api.crd import custom_resource_definition

from tests.kit.control_plane import RUNS, Api, ControlPlane, find_assets, until
from tests.kit.real_controllers import PROGRAMS, Cluster

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
VERSIONS = {"": "KUBEBUILDER_ASSETS", "1.36": "KUBEBUILDER_ASSETS_1_36"}


@pytest.fixture(scope="session", params=VERSIONS, ids=["usual", "1.36"])
def control_plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    assets = find_assets(request.param)
    if assets is None:
        pytest.skip(
            f"needs etcd and kube-apiserver: setup-envtest prints a folder with them for {VERSIONS[request.param]}"
        )
    with ControlPlane(assets, tmp_path_factory.mktemp("control-plane")) as plane:
        yield plane


@pytest.fixture(scope="session")
def api(control_plane: ControlPlane) -> Api:
    """An administrator of a cluster that has the CRD and two namespaces: `default`, and `strict` with Pod Security."""
    api = control_plane.api
    answer = api.create(CRDS, custom_resource_definition())
    assert answer.code == 201, answer.message
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    for name, given in (("default", {}), ("strict", labels)):
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": given}}
        assert api.create("/api/v1/namespaces", namespace).code in {201, 409}
    until(lambda: api.get(RUNS.format("default")).code == 200, "the CRD is served")
    return api


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane with real controllers, for tests that break it."""
    assets = find_assets()
    if assets is None or not Cluster.can_run(assets):
        pytest.skip(f"needs {', '.join(PROGRAMS)} in the folder that KUBEBUILDER_ASSETS names")
    with Cluster(assets, tmp_path_factory.mktemp("cluster")) as made:
        yield made
