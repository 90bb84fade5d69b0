"""What happens to pods while a run is at work: it ends with the digests of a run that nothing happened to."""

import threading
from typing import Any

import pytest

from . import artifacts
from .kube import condition, until
from .operator import Operator
from .runs import Runs

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]
STAGES = ("warm-start", "collect", "fit-q", "improve", "evaluate")


def check(runs: Runs, name: str, undisturbed: artifacts.Files) -> dict[str, int]:
    """The run ends with the right digests; how often each stage was tried."""
    runs.wait(name, "Succeeded")
    published = runs.published(name)
    assert artifacts.digests(published) == artifacts.digests(undisturbed)
    assert artifacts.ledger(published) == artifacts.ledger(undisturbed)
    return runs.attempts(name)


@pytest.mark.slow
def test_the_operator_is_killed_again_and_again(runs: Runs, operator: Operator, undisturbed: artifacts.Files) -> None:
    """Five seconds after each time that one took the Lease; in between it waits until the Lease is free."""
    ended, killed = threading.Event(), []

    def kill() -> None:
        while not ended.is_set():
            name = operator.pod()
            if not ended.wait(5) and name not in killed:
                killed.append(name)
                operator.kill()

    runs.create("killed")
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        attempts = check(runs, "killed", undisturbed)
    finally:
        ended.set()
        killer.join()
    assert len(killed) >= 3, killed
    assert set(attempts.values()) == {1}
    jobs = runs.kube.list("jobs", runs.namespace, "ippo.dev/run=killed")
    assert len(jobs) == len(STAGES), "no stage ran twice"


def failure(runs: Runs, name: str) -> dict[str, Any]:
    """The last one; empty without any."""
    found: dict[str, Any] = runs.get(name)["status"].get("lastFailure") or {}
    return found


def at_work(runs: Runs, name: str, stage: str) -> str:
    """A pod of that stage that has got beyond its imports."""
    pod = str(runs.wait_stage(name, stage)["metadata"]["name"])
    until(lambda: runs.kube.kubectl("logs", pod, "-n", runs.namespace, "--tail", "1"), f"{pod} logs", every=0.5)
    return pod


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_pod_is_deleted(runs: Runs, undisturbed: artifacts.Files, stage: str) -> None:
    name = f"deleted-{stage}"
    runs.create(name)
    runs.kube.kubectl("delete", "pod", at_work(runs, name, stage), "-n", runs.namespace, "--wait=false")
    attempts = check(runs, name, undisturbed)
    assert {key: count for key, count in attempts.items() if count != 1} == {key(stage): 2}
    assert failure(runs, name)["kind"] == "Disruption"


@pytest.mark.slow
def test_a_stage_runs_out_of_memory_until_it_gets_more(runs: Runs, undisturbed: artifacts.Files) -> None:
    runs.create("hungry", pods={"fitQ": {"resources": {"limits": {"memory": "128Mi"}, "requests": {"memory": "64Mi"}}}})
    until(lambda: failure(runs, "hungry"), "fit-q is killed", 600)
    said = failure(runs, "hungry")
    assert (said["stage"], said["kind"]) == ("fit-q", "Crash")
    assert "memory" in said["message"]
    runs.patch("hungry", pods={"fitQ": {"resources": {"limits": {"memory": "1536Mi"}}}})
    attempts = check(runs, "hungry", undisturbed)
    assert attempts[key("fit-q")] >= 2


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_the_node_is_drained(runs: Runs, undisturbed: artifacts.Files, stage: str) -> None:
    """Kubernetes itself starts such pods again, once there is a node: no attempt is spent."""
    if runs.kube.place.lab is None:
        pytest.skip("cordons a node, which only a lab's may be")
    name = f"drained-{stage}"
    runs.create(name)
    pod = runs.kube.get("pod", runs.namespace, at_work(runs, name, stage))
    node = pod["spec"]["nodeName"]
    chosen = ("--pod-selector", f"ippo.dev/run={name}", "--delete-emptydir-data", "--force", "--timeout=120s")
    try:
        runs.kube.kubectl("drain", node, *chosen)
        until(lambda: condition(runs.get(name), "Reconciling")[1] == "Unschedulable", "the run tells what it waits for")
    finally:
        runs.kube.kubectl("uncordon", node)
    attempts = check(runs, name, undisturbed)
    assert set(attempts.values()) == {1}
    assert not failure(runs, name)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_is_suspended_and_resumed(runs: Runs, undisturbed: artifacts.Files, stage: str) -> None:
    name = f"suspended-{stage}"
    runs.create(name)
    at_work(runs, name, stage)
    for verb, expected in (("suspend", "True"), ("resume", "False")):
        done = runs.kube.call("ippo", verb, name, "-n", runs.namespace, "--wait")
        assert done.returncode == 0, done.stderr
        assert condition(runs.get(name), "Suspended")[0] == expected
        if verb == "suspend":
            assert not runs.kube.list("pods", runs.namespace, f"ippo.dev/run={name},ippo.dev/stage={stage}")
    check(runs, name, undisturbed)
    assert not failure(runs, name)


def key(stage: str) -> str:
    """Of a stage in the attempts."""
    return f"{0 if stage == 'warm-start' else 1}/{stage}"
