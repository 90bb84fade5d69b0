"""A container that somebody put beside the stage's and that does not end with it: the stage's own end counts."""

import copy
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from ippo_operator.cluster.observe import job_state, sidecars
from ippo_operator.manifests.identity import JOB_INDEX
from ippo_trainer.contract.spec import ArtifactRef, StageResult, StageSpec

from tests.kit.fake_api import Died, FakeApi, Object
from tests.kit.planner_world import START, good_result
from tests.kit.toy_cluster import (
    ToyController,
    ToyOperator,
    attempts,
    begin,
    condition,
    ended_status,
    pod_of,
    status_of,
    uid,
)

from .test_observe import JOB

FINISHED = "2026-01-31T11:59:00Z"
PROXY = {"name": "istio-proxy", "state": {"running": {"startedAt": FINISHED}}}


def beside(code: int, message: str, phase: str = "Running", **more: Any) -> Object:
    """The status of a pod whose stage ended and whose proxy goes on."""
    status = ended_status(code, message, finished=more.pop("finished", FINISHED))
    return status | {"phase": phase, "containerStatuses": [PROXY, *status["containerStatuses"]]} | more


class Mesh(ToyController):
    """Its pods have a sidecar that goes on until the pod is deleted."""

    def _look_at(self, job: Object) -> bool:
        pods = [pod for pod in self.api.all("pods") if pod["metadata"]["ownerReferences"][0]["uid"] == uid(job)]
        if "deletionTimestamp" in job["metadata"] or not pods:
            return super()._look_at(job)
        return sum(self._end_beside(job, pod) for pod in pods) > 0

    def _end_beside(self, job: Object, pod: Object) -> bool:
        if "containerStatuses" in pod["status"]:
            return False
        config = self.api.objects["configmaps", "team", job["metadata"]["name"]]
        ended = self.ending(StageSpec.model_validate_json(config["data"]["spec.json"]))
        code, message = (0, ended.to_message().decode()) if isinstance(ended, StageResult) else ended
        self.api.edit("pods", "team", pod["metadata"]["name"], status=beside(code, message))
        return True


def meshed(ending: Callable[[StageSpec], Any] = good_result, **spec: Any) -> tuple[FakeApi, ToyOperator, Mesh]:
    api, operator, _ = begin(**spec)
    return api, operator, Mesh(api, ending)


def test_a_run_whose_pods_never_end_by_themselves_is_done_all_the_same() -> None:
    api, operator, mesh = meshed()
    operator.finish(mesh)
    assert condition(api, "Succeeded")["status"] == "True"
    assert len(attempts(api)) == 5
    assert api.all("jobs") == [], "the pods are ended with their Jobs"
    told = [event["note"] for event in api.all("events") if event["reason"] == "SidecarEnded"]
    assert len(told) == 5
    assert "the container istio-proxy of pod" in told[0]
    assert status_of(api)["budgets"] == {"tryAgain": 0, "crashes": 0, "disruptions": 0}


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (64, "Spec", "InvalidSpec"),
        (65, "Data", "InvalidData"),
        (1, "Crash", "BudgetExhausted"),
        (137, "Crash", "BudgetExhausted"),
    ],
)
@pytest.mark.parametrize("stage", ["warm-start", "collect"])
def test_a_stage_that_failed_says_why(code: int, kind: str, reason: str, stage: str) -> None:
    api, operator, mesh = meshed(
        lambda spec: (code, '{"error": {"message": "no outcome"}}') if spec.stage == stage else good_result(spec),
        retries={"crashes": 0},
    )
    operator.finish(mesh)
    failure = status_of(api)["lastFailure"]
    assert (failure["kind"], failure["exitCode"], failure["stage"]) == (kind, code, stage)
    assert "no outcome" in failure["message"]
    assert condition(api, "Stalled")["reason"] == reason
    assert api.all("jobs") == []


def test_what_can_be_tried_again_is() -> None:
    ends = iter([(75, "the store is down"), (143, "told to stop")])
    api, operator, mesh = meshed(lambda spec: next(ends, None) or good_result(spec))
    operator.finish(mesh)
    assert condition(api, "Succeeded")["status"] == "True"
    assert len(attempts(api)) == 7


def test_a_stage_without_a_result_is_not_done_and_its_pod_ends() -> None:
    api, operator, mesh = meshed(lambda _spec: (0, "done!"), retries={"crashes": 0})
    operator.finish(mesh)
    assert status_of(api)["lastFailure"]["reason"] == "ResultUnreadable"
    assert api.all("jobs") == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_whoever_dies_at_any_call_leaves_a_run_that_goes_on(when: str) -> None:
    number = 0
    while True:
        api, operator, mesh = meshed()
        calls = iter(range(10_000))

        def die(*_: Any, at: int = number, calls: Any = calls) -> None:
            if next(calls) == at:
                raise Died

        setattr(api, when, die)
        alive = False
        for _ in range(200):
            try:
                operator.finish(mesh)
                alive = True
                break
            except Died:
                setattr(api, when, lambda *_: None)
                restarted = ToyOperator(api)
                restarted.now = operator.now
                operator = restarted
        assert alive
        assert condition(api, "Succeeded")["status"] == "True"
        assert len(attempts(api)) == len(set(attempts(api))) == 5
        assert api.all("jobs") == []
        if next(calls) <= number:
            return  # nobody died: there is no such call
        number += 7


def pods_of(job: Object, *statuses: Object) -> list[Object]:
    made = [pod_of(job, index, status) for index, status in enumerate(statuses)]
    for index, pod in enumerate(made):
        pod["metadata"]["annotations"] = {JOB_INDEX: str(index)}
    return made


def job_of(count: int, **status: Any) -> Object:
    made = copy.deepcopy(JOB) | {"status": status}
    made["spec"] |= {"completions": count, "podFailurePolicy": {"rules": [{"action": "FailJob"}, {"action": "Ignore"}]}}
    return made


NOW = START
RUNNING: Object = {"phase": "Running"}
OVER = ended_status(0, "")
DISRUPTED = {"conditions": [{"type": "DisruptionTarget", "status": "True"}]}
STARTING = {"name": "istio-proxy", "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}
NEVER_STARTED = beside(0, "", phase="Pending")
NEVER_STARTED["containerStatuses"][0] = STARTING


@pytest.mark.parametrize(
    ("statuses", "state"),
    [
        ([beside(0, ""), beside(0, "")], "Succeeded"),
        ([beside(0, ""), OVER], "Succeeded"),
        ([beside(0, ""), RUNNING], None),
        ([beside(0, "")], None),
        ([beside(1, "x"), RUNNING], "Failed"),
        ([beside(64, "x") | DISRUPTED, RUNNING], "Failed"),
        ([beside(1, "x") | DISRUPTED, RUNNING], None),
        ([RUNNING, RUNNING], None),
        ([OVER, OVER], None),
        ([NEVER_STARTED, OVER], "Succeeded"),
        ([beside(0, "", finished="2026-01-31T11:59:55Z"), OVER], "Running"),
        ([beside(0, "", finished="2027-01-31T11:59:55Z"), OVER], "Succeeded"),
        ([beside(0, "", finished="9999-12-31T23:59:59Z"), OVER], "Succeeded"),
    ],
)
def test_shards_are_judged_as_their_jobs_policy_would(statuses: list[Object], state: str | None) -> None:
    job = job_of(2)
    found = sidecars.look(job, pods_of(job, *statuses), NOW)
    assert (found[0].state if found is not None else None) == state


def test_shards_that_ended_whole_count_also_once_their_pods_are_gone() -> None:
    """As of a Job that says so itself: what the pods said that are gone is lost, unless another one says it."""
    job = job_of(2, succeeded=1)
    found = sidecars.look(job, pods_of(job, beside(0, "")), NOW)
    assert found is not None
    assert (found[0].state, found[0].failure.disrupted) == ("Failed", True)
    ref = ArtifactRef(key="iterations/0001/collect/x", digest="sha256:" + "0" * 64)
    result = StageResult(stage="collect", iteration=1, input_digest=ref.digest, artifacts={"data": ref})
    found = sidecars.look(job, pods_of(job, beside(0, result.to_message().decode())), NOW)
    assert found is not None
    assert (found[0].state, found[0].results) == ("Succeeded", (result,))


def test_a_sidecar_that_ends_by_itself_is_left_to_do_so() -> None:
    job = job_of(1)
    finished = (NOW - timedelta(seconds=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    found = sidecars.look(job, pods_of(job, beside(0, "", finished=finished)), NOW)
    assert found is not None
    assert (found[0].state, found[0].lingers, found[1]) == ("Running", "", 10.0)


def test_native_sidecars_and_pods_on_their_way_out_are_the_kubelets_business() -> None:
    job = job_of(1)
    native = ended_status(0, "") | {"phase": "Running", "initContainerStatuses": [PROXY]}
    [pod] = pods_of(job, beside(0, ""))
    pod["metadata"]["deletionTimestamp"] = FINISHED
    assert sidecars.look(job, pods_of(job, native), NOW) is None
    assert sidecars.look(job, [pod], NOW) is None


def test_a_stage_that_was_done_is_done_although_its_sidecar_failed_afterwards() -> None:
    api, operator, controller = begin()
    broken = {"name": "istio-proxy", "state": {"terminated": {"exitCode": 1, "finishedAt": FINISHED}}}
    operator.settle()
    controller.step()
    controller.step()
    [pod] = api.all("pods")
    status = pod["status"] | {"phase": "Failed"}
    status["containerStatuses"] = [broken, *status["containerStatuses"]]
    api.edit("pods", "team", pod["metadata"]["name"], status=status)
    [job] = api.all("jobs")
    failed = {"type": "Failed", "status": "True", "lastTransitionTime": FINISHED}
    api.edit("jobs", "team", job["metadata"]["name"], status={"conditions": [failed]})
    assert job_state.observe(api.all("jobs")[0], api.all("pods")).state == "Succeeded"
    operator.finish(controller)
    assert condition(api, "Succeeded")["status"] == "True"
    assert len(attempts(api)) == 5
