"""The release before this one is upgraded while a run is at work."""

from collections.abc import Iterator

import pytest

from . import artifacts
from .kube import Kube, until
from .operator import CHART, NAMESPACE, Operator
from .place import ROOT, NoPlaceError, version
from .runs import Runs

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(2400)]
PREVIOUS = ROOT / "build" / "previous"


@pytest.fixture(scope="module")
def operator(kube: Kube) -> Iterator[Operator]:
    """The release before this one: its chart, its CRD, its operator; the stages are this one's, whose digests count."""
    if not PREVIOUS.exists():
        pytest.skip(f"needs {PREVIOUS}: make e2e-all makes it from Git's history")
    try:
        name = f"ippo-operator:{version(PREVIOUS)}"
        image = kube.place.image("IPPO_E2E_PREVIOUS_IMAGE", PREVIOUS / "operator.tar", name)
    except NoPlaceError as error:
        pytest.skip(str(error))
    with Operator(kube, "--set", f"image={image}", chart=PREVIOUS / "charts" / "ippo-operator") as installed:
        yield installed


def test_no_stage_runs_again(kube: Kube, runs: Runs, operator: Operator, undisturbed: artifacts.Files) -> None:
    runs.create("upgraded", serve={"engine": "Transformers"})
    runs.wait_stage("upgraded", "fit-q")
    old = operator.pod()
    assert labels(kube, old)["app.kubernetes.io/version"] == version(PREVIOUS)
    operator.helm("upgrade", chart=CHART)
    new = str(until(lambda: (pod := operator.pod()) != old and pod, "the new operator holds the Lease"))
    assert labels(kube, new)["app.kubernetes.io/version"] == version()
    run = runs.wait("upgraded", "Succeeded")
    assert set(runs.attempts("upgraded").values()) == {1}
    assert len(kube.list("jobs", runs.namespace, "ippo.dev/run=upgraded")) == 5
    assert artifacts.digests(runs.published("upgraded")) == artifacts.digests(undisturbed)
    assert artifacts.ledger(runs.published("upgraded")) == artifacts.ledger(undisturbed)
    until(lambda: runs.get("upgraded")["status"]["serving"]["active"]["iteration"] == 1, "the new policy is served")
    assert run["metadata"]["uid"] == runs.get("upgraded")["metadata"]["uid"]


def labels(kube: Kube, pod: str) -> dict[str, str]:
    """Of an operator's pod."""
    found: dict[str, str] = kube.get("pod", NAMESPACE, pod)["metadata"]["labels"]
    return found
