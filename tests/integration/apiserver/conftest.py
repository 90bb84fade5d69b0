"""One API server per version while tests of this folder run, with the CRD of this tree installed."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from ippo_operator.api.crd import custom_resource_definition

from tests.kit.control_plane import RUNS, Api, ControlPlane, find_assets
from tests.kit.real_controllers import CRDS, PROGRAMS, Cluster
from tests.kit.waiting import until

VERSIONS = {"": "KUBEBUILDER_ASSETS", "1.36": "KUBEBUILDER_ASSETS_1_36"}


@pytest.fixture(scope="package")
def plane_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], ControlPlane]]:
    """A control plane by its version; once started it stays, in whatever order tests come."""
    with ExitStack() as planes:

        @functools.cache
        def start(version: str) -> ControlPlane:
            assets = find_assets(version)
            if assets is None:
                variable = VERSIONS[version]
                pytest.skip(f"needs etcd and kube-apiserver: setup-envtest prints a folder with them for {variable}")
            plane = planes.enter_context(ControlPlane(assets, tmp_path_factory.mktemp("control-plane")))
            _prepare(plane.api)
            return plane

        yield start


def _prepare(api: Api) -> None:
    """The CRD and two namespaces: `default`, and `strict` with Pod Security."""
    answer = api.create(CRDS, custom_resource_definition())
    assert answer.code == 201, answer.message
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    for name, labels in (("default", {}), ("strict", restricted)):
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        assert api.create("/api/v1/namespaces", namespace).code in {201, 409}
    until(lambda: api.get(RUNS.format("default")).code == 200, "the CRD is served")


@pytest.fixture(scope="package", params=VERSIONS, ids=["usual", "1.36"])
def control_plane(request: pytest.FixtureRequest, plane_of: Callable[[str], ControlPlane]) -> ControlPlane:
    """With the CRD and the namespaces `default` and `strict`."""
    return plane_of(request.param)


@pytest.fixture(scope="package")
def api(control_plane: ControlPlane) -> Api:
    """An administrator of it."""
    return control_plane.api


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane with real controllers, for tests that break it."""
    assets = find_assets()
    if assets is None or not Cluster.can_run(assets):
        pytest.skip(f"needs {', '.join(PROGRAMS)} in the folder that KUBEBUILDER_ASSETS names")
    with Cluster(assets, tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def namespace(api: Api, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of its own for each test, whose objects end with it."""
    name = f"t{abs(hash(request.node.nodeid)) % 10**8}"
    answer = api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    assert answer.code == 201, answer.message
    yield name
    for path in (RUNS, "/apis/batch/v1/namespaces/{}/jobs", "/apis/apps/v1/namespaces/{}/deployments"):
        api.delete(path.format(name))
