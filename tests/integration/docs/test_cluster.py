"""The pages for a cluster, command by command; scenes that install the operator have a cluster of their own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.integration.chart.helm import need
from tests.kit.control_plane import find_assets
from tests.kit.doc_scenes import CLUSTER, Scene

from .world import World

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], World]]:
    """The clusters by name; one at a time, since the scenes of one follow each other."""
    helm, assets = need("helm"), find_assets()
    if assets is None or not (assets / "kubectl").exists():
        pytest.skip("needs etcd, kube-apiserver and kubectl in one folder, where setup-envtest puts them")
    current: dict[str, World] = {}
    with ExitStack() as stack:

        def world(name: str) -> World:
            if name not in current:
                stack.close()
                current.clear()
                current[name] = stack.enter_context(World(assets, helm, tmp_path_factory.mktemp(name)))
            return current[name]

        yield world


@pytest.mark.parametrize("scene", CLUSTER, ids=str)
def test_a_page_is_carried_out(worlds: Callable[[str], World], scene: Scene) -> None:
    done = worlds(scene.world).carry_out(scene)
    problems = done.problems(scene.fails)
    assert not problems, "\n".join(problems)
