"""What happens to pods while a run is at work: it ends with the digests of a run that nothing happened to.

Each kind of trouble comes to every stage of one run, one stage after the other.
"""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from . import artifacts
from .kube import condition, until
from .operator import Operator
from .runs import Runs, on_this_machine

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(2400)]
STAGES = ("warm-start", "collect", "fit-q", "improve", "evaluate")
LONGER: dict[str, Any] = {
    "improve": {"updates": 24, "criticWarmupUpdates": 2, "batchSize": 16},
    "evaluate": {"conversations": 3000, "gate": {"onInconclusive": "Promote"}},
}
"""The last stages of the small run are over before anything can happen to them."""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> artifacts.Files:
    """What the longer run publishes if nothing goes wrong."""
    return on_this_machine(tmp_path_factory.mktemp("longer"), **LONGER)


def check(runs: Runs, name: str, expected: artifacts.Files) -> dict[str, int]:
    """The run ends with the right digests; how often each stage was tried."""
    runs.wait(name, "Succeeded")
    published = runs.published(name)
    assert artifacts.digests(published) == artifacts.digests(expected)
    assert artifacts.ledger(published) == artifacts.ledger(expected)
    assert not [key for key in published if "/checkpoint/" in key], "checkpoints go with their stage"
    return runs.attempts(name)


def failure(runs: Runs, name: str) -> dict[str, Any]:
    """The last one; empty without any."""
    found: dict[str, Any] = runs.get(name)["status"].get("lastFailure") or {}
    return found


def at_work(runs: Runs, name: str, stage: str) -> str:
    """A pod of that stage that has got beyond its imports."""
    pod = str(runs.wait_stage(name, stage)["metadata"]["name"])
    until(lambda: runs.kube.kubectl("logs", pod, "-n", runs.namespace, "--tail", "1"), f"{pod} logs", every=0.2)
    return pod


def resumed(runs: Runs, name: str, stage: str) -> bool:
    """Whether one of the stage's pods says that it went on from a checkpoint."""
    chosen = f"ippo.dev/run={name},ippo.dev/stage={stage}"
    # Fails while one of them is only being made.
    return (
        "resumed after" in runs.kube.call("kubectl", "logs", "-n", runs.namespace, "-l", chosen, "--tail", "-1").stdout
    )


def everywhere(runs: Runs, name: str, happen: Callable[[str, str], None]) -> None:
    """Has something happen to each stage, given a pod of it that is at work."""
    for stage in STAGES:
        happen(stage, at_work(runs, name, stage))


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


def test_pods_are_deleted(runs: Runs, reference: artifacts.Files) -> None:
    """Each stage saves its checkpoint, and a second attempt goes on from it."""
    runs.create("deleted", **LONGER)
    everywhere(runs, "deleted", lambda _, pod: _delete(runs, pod))
    assert check(runs, "deleted", reference) == {key(stage): 2 for stage in STAGES}
    assert failure(runs, "deleted")["kind"] == "Disruption"
    assert [stage for stage in STAGES if not resumed(runs, "deleted", stage)] == []


def test_containers_run_out_of_memory(runs: Runs, reference: artifacts.Files) -> None:
    """Files in /dev/shm count for the container: its largest process, the stage, is killed."""
    runs.create("hungry", pods={"common": {"sharedMemory": "4Gi"}}, **LONGER)
    told = []

    def fill(_: str, pod: str) -> None:
        before = failure(runs, "hungry")
        runs.kube.call("kubectl", "exec", pod, "-n", runs.namespace, "--", "sh", "-c", "cat /dev/zero > /dev/shm/all")
        until(lambda: failure(runs, "hungry") != before, f"{pod} is killed", every=0.5)
        told.append(failure(runs, "hungry"))

    everywhere(runs, "hungry", fill)
    assert check(runs, "hungry", reference) == {key(stage): 2 for stage in STAGES}
    assert [(each["stage"], each["kind"], each["exitCode"]) for each in told] == [(s, "Crash", 137) for s in STAGES]
    assert all("raise resources.limits.memory" in each["message"] for each in told)


def test_a_stage_has_too_little_memory_until_it_gets_more(runs: Runs, undisturbed: artifacts.Files) -> None:
    runs.create("small", pods={"fitQ": {"resources": {"limits": {"memory": "128Mi"}, "requests": {"memory": "64Mi"}}}})
    until(lambda: failure(runs, "small"), "fit-q is killed", 600)
    assert failure(runs, "small")["stage"] == "fit-q"
    runs.patch("small", pods={"fitQ": {"resources": {"limits": {"memory": "1536Mi"}}}})
    assert check(runs, "small", undisturbed)[key("fit-q")] >= 2


def test_a_stage_outgrows_its_disk(runs: Runs, undisturbed: artifacts.Files) -> None:
    """The kubelet measures volumes every one or two minutes, so the stage is slowed down."""
    slow = {"resources": {"limits": {"cpu": "60m"}, "requests": {"cpu": "60m"}}}
    runs.create("outgrows", pods={"common": {"workSize": "64Mi"}, "fitQ": slow})
    pod = at_work(runs, "outgrows", "fit-q")
    fill = "head -c 100000000 /dev/zero > /ippo/work/all"
    runs.kube.kubectl("exec", pod, "-n", runs.namespace, "--", "sh", "-c", fill)
    until(lambda: failure(runs, "outgrows"), f"{pod} is evicted")
    said = failure(runs, "outgrows")
    assert (said["stage"], said["kind"]) == ("fit-q", "Crash")
    assert "Raise workSize" in said["message"]
    runs.patch("outgrows", pods={"fitQ": None})
    assert check(runs, "outgrows", undisturbed)[key("fit-q")] == 2


def test_the_node_is_drained(runs: Runs, reference: artifacts.Files) -> None:
    """Kubernetes itself starts such pods again, once there is a node: no attempt is spent."""
    if runs.kube.place.lab is None:
        pytest.skip("cordons a node, which only a lab's may be")
    runs.create("drained", **LONGER)
    everywhere(runs, "drained", lambda stage, pod: _drain(runs, "drained", stage, pod))
    assert check(runs, "drained", reference) == {key(stage): 1 for stage in STAGES}
    assert not failure(runs, "drained")


def test_a_run_is_suspended_and_resumed(runs: Runs, reference: artifacts.Files) -> None:
    runs.create("suspended", **LONGER)
    everywhere(runs, "suspended", lambda *_: _suspend_and_resume(runs, "suspended"))
    check(runs, "suspended", reference)
    assert not failure(runs, "suspended")
    assert [stage for stage in STAGES if not resumed(runs, "suspended", stage)] == []


def key(stage: str) -> str:
    """Of a stage in the attempts."""
    return f"{0 if stage == 'warm-start' else 1}/{stage}"


def _delete(runs: Runs, pod: str) -> None:
    """Returns when it is gone: the next pod of that name pattern is another attempt's."""
    runs.kube.kubectl("delete", "pod", pod, "-n", runs.namespace)


def _drain(runs: Runs, name: str, stage: str, pod: str) -> None:
    """Pods that have completed go too, and their logs: what the next one says is read at once."""
    node = runs.kube.get("pod", runs.namespace, pod)["spec"]["nodeName"]
    chosen = ("--pod-selector", f"ippo.dev/run={name}", "--delete-emptydir-data", "--force", "--timeout=120s")
    try:
        runs.kube.kubectl("drain", node, *chosen)
        until(lambda: condition(runs.get(name), "Reconciling")[1] == "Unschedulable", "the run tells what it waits for")
    finally:
        runs.kube.kubectl("uncordon", node)
    until(lambda: resumed(runs, name, stage), f"{stage} goes on from its checkpoint", 120, every=0.5)


def _suspend_and_resume(runs: Runs, name: str) -> None:
    for verb, expected in (("suspend", "True"), ("resume", "False")):
        done = runs.kube.call("ippo", verb, name, "-n", runs.namespace, "--wait")
        assert done.returncode == 0, done.stderr
        assert condition(runs.get(name), "Suspended")[0] == expected
        if verb == "suspend":
            pods = runs.kube.list("pods", runs.namespace, f"ippo.dev/run={name}")
            assert {pod["status"]["phase"] for pod in pods} <= {"Succeeded"}
