"""The same spec and seed on one machine and in a cluster."""

import pytest

from . import artifacts
from .runs import Runs

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]


def test_a_run_in_pods_has_the_digests_of_a_run_on_this_machine(runs: Runs, undisturbed: artifacts.Files) -> None:
    runs.create("same")
    runs.wait("same", "Succeeded")
    published = runs.published("same")
    assert artifacts.digests(published) == artifacts.digests(undisturbed)
    assert artifacts.ledger(published) == artifacts.ledger(undisturbed)
