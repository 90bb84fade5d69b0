"""One cluster for all of these tests; each module has a namespace and an operator, the session has a bucket."""

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import artifacts
from .kube import Kube
from .operator import Operator
from .place import NoPlaceError, Place, place
from .runs import Runs, on_this_machine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The quickstart comes first: where it fails, nothing else has to be looked at."""
    items.sort(key=lambda item: item.path.name != "test_quickstart.py")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Place]:
    try:
        with place() as cluster:
            yield cluster
    except NoPlaceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def kube(cluster: Place) -> Kube:
    kube = Kube(cluster)
    kube.environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kube.environment["PATH"]])
    return kube


@pytest.fixture(scope="session")
def bucket(cluster: Place) -> Iterator[str]:
    """For all artifacts of these tests."""
    s3, name = artifacts.client(cluster.store), f"ippo-e2e-{uuid.uuid4().hex[:8]}"
    s3.create_bucket(Bucket=name)
    yield name
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=name):
        for entry in page.get("Contents", []):
            s3.delete_object(Bucket=name, Key=entry["Key"])
    s3.delete_bucket(Bucket=name)


@pytest.fixture(scope="module")
def operator(kube: Kube) -> Iterator[Operator]:
    """The chart, as the quickstart installs it."""
    with Operator(kube) as installed:
        yield installed


@pytest.fixture(scope="module")
def runs(kube: Kube, bucket: str, operator: Operator, request: pytest.FixtureRequest) -> Iterator[Runs]:
    """Runs in a namespace of the module's name."""
    module = request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-")
    runs = Runs(kube, f"e2e-{module}", bucket)
    runs.prepare(enforce="restricted")
    yield runs
    kube.remove(runs.namespace)


@pytest.fixture(scope="session")
def undisturbed(cluster: Place, tmp_path_factory: pytest.TempPathFactory) -> artifacts.Files:
    """What the small run publishes if nothing goes wrong: on this machine, without any cluster."""
    return on_this_machine(tmp_path_factory.mktemp("reference"))
