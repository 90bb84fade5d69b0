"""One lab for all of these tests, with one operator and one stand-in for the kubelet."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit.lab import find_lab
from tests.kit.operator_process import Operator

from .cluster import NEEDED, Lab
from .kubelet import Kubelet
from .repository import Repository


def _need(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs on the PATH: {', '.join(missing)}")


@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A control plane with the CRD and a running operator."""
    script = find_lab()
    if script is None:
        pytest.skip(NEEDED)
    _need("git", "openssl")
    folder = tmp_path_factory.mktemp("gitops")
    (folder / "repositories").mkdir()
    with Lab(script, folder / "repositories") as lab, Operator(lab, folder, "--resync-seconds", "20") as operator:  # type: ignore[arg-type]
        operator.wait_ready()
        yield lab


@pytest.fixture(scope="package")
def kubelet(lab: Lab) -> Iterator[Kubelet]:
    with Kubelet(lab.api) as kubelet:
        yield kubelet


@pytest.fixture(scope="package")
def flux(lab: Lab) -> Lab:
    """The lab with Flux."""
    lab.start("flux")
    return lab


@pytest.fixture(scope="package")
def argocd(lab: Lab) -> Lab:
    """The lab with Argo CD."""
    _need("redis-server")
    lab.start("argocd")
    return lab


@pytest.fixture
def repository(lab: Lab, tmp_path: Path) -> Callable[[str], Repository]:
    """A new Git repository of that name."""
    return lambda name: Repository(lab.repositories, name, tmp_path)
