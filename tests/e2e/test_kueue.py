"""Jobs that wait in a queue: this test plays Kueue, which is the only one to touch a Job's `suspend`."""

import pytest

from . import artifacts
from .kube import Object, condition, until
from .runs import Runs

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(2400)]
QUEUE = "team-queue"


def waiting(runs: Runs) -> list[Object]:
    """Suspended Jobs of the queue."""
    jobs = runs.kube.list("jobs", runs.namespace, f"kueue.x-k8s.io/queue-name={QUEUE}")
    return [job for job in jobs if job["spec"].get("suspend")]


def suspend(runs: Runs, job: Object, value: bool) -> None:
    """What Kueue does to admit (False) and to evict (True)."""
    patch = f'{{"spec": {{"suspend": {str(value).lower()}}}}}'
    runs.kube.kubectl("patch", "job", job["metadata"]["name"], "-n", runs.namespace, "--type", "merge", "-p", patch)


def test_admitted_late_and_evicted_in_mid_stage(runs: Runs, undisturbed: artifacts.Files) -> None:
    runs.create("queues", queue={"localQueueName": QUEUE})
    for stage in ("warm-start", "collect", "fit-q", "improve", "evaluate"):
        [job] = until(lambda: waiting(runs), f"the Job of {stage} waits")
        assert job["metadata"]["labels"]["ippo.dev/stage"] == stage
        until(lambda: condition(runs.get("queues"), "Queued")[:2] == ("True", "WaitingForQuota"), "the run is Queued")
        suspend(runs, job, False)
        pod = runs.wait_stage("queues", stage)
        if stage == "fit-q":
            suspend(runs, job, True)
            until(lambda: condition(runs.get("queues"), "Queued")[0] == "True", "the evicted run is Queued again")
            until(lambda: not runs.kube.list("pods", runs.namespace, "ippo.dev/stage=fit-q"), "its pod is gone")
            [again] = until(lambda: waiting(runs), "the Job waits again")
            suspend(runs, again, False)
            assert runs.wait_stage("queues", stage)["metadata"]["uid"] != pod["metadata"]["uid"]
    run = runs.wait("queues", "Succeeded")
    assert not run["status"].get("lastFailure"), "waiting and eviction are no failures"
    assert artifacts.digests(runs.published("queues")) == artifacts.digests(undisturbed)
