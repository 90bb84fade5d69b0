"""The chart is upgraded while a run is at work."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import artifacts
from .kube import Kube
from .operator import CHART, NAMESPACE, Operator
from .runs import Runs

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def operator(kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """The chart before this one. None is published yet, so it is this one under a lower version."""
    before = tmp_path_factory.mktemp("before") / "ippo-operator"
    shutil.copytree(CHART, before)
    meta = before / "Chart.yaml"
    meta.write_text(re.sub(r"(?m)^version: .*$", "version: 0.0.1", meta.read_text()))
    with Operator(kube, chart=before) as installed:
        yield installed


def test_no_stage_runs_again(kube: Kube, runs: Runs, operator: Operator, undisturbed: artifacts.Files) -> None:
    runs.create("upgraded")
    runs.wait_stage("upgraded", "fit-q")
    old = operator.pod()
    operator.helm("upgrade", "--set", "podLabels.upgraded=yes", chart=Path(CHART))
    assert operator.pod() != old
    [pod] = kube.list("pods", NAMESPACE, "upgraded=yes")
    assert pod["metadata"]["labels"]["helm.sh/chart"].endswith(_version())
    runs.wait("upgraded", "Succeeded")
    assert set(runs.attempts("upgraded").values()) == {1}
    assert len(kube.list("jobs", runs.namespace, "ippo.dev/run=upgraded")) == 5
    assert artifacts.digests(runs.published("upgraded")) == artifacts.digests(undisturbed)


def _version() -> str:
    return next(
        line.split()[1] for line in (CHART / "Chart.yaml").read_text().splitlines() if line.startswith("version")
    )
