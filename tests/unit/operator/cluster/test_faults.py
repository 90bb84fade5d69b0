"""Faults of the API server and the world: every run still ends right, and no attempt is made twice."""

import copy
import random
from collections.abc import Callable
from datetime import timedelta

import pytest
from ippo_operator.cluster.errors import ApiError, FencedError, UnavailableError
from ippo_operator.cluster.observe.snapshot import UnreadableStatusError
from ippo_operator.cluster.transport import Request, Response

from tests.kit.fake_api import FakeApi, answer, lost
from tests.kit.planner_world import good_result
from tests.kit.toy_cluster import (
    ToyController,
    ToyOperator,
    attempts,
    begin,
    complain,
    condition,
    run_manifest,
    stands,
    status_of,
    the_run,
)

SUCCEEDED = ("True", "Completed")


def stubborn(operator: ToyOperator, controller: ToyController) -> None:
    """Goes on as the queue does: a pass that fails is tried again."""
    for _ in range(300):
        try:
            operator.finish(controller)
            return
        except ApiError:
            continue
    raise AssertionError("the run does not come to rest")


def sometimes(n: int, fault: Callable[[Request], Response | None]) -> Callable[[int, Request], Response | None]:
    """A fault in one of n requests, at random but always the same ones."""
    chance = random.Random(n)
    return lambda _, request: fault(request) if chance.random() < 1 / n else None


@pytest.mark.parametrize(
    "fault",
    [
        lambda _: answer(429, "TooManyRequests", **{"Retry-After": "1"}),
        lambda _: answer(500, "InternalError"),
        lambda _: answer(503, "ServiceUnavailable"),
        lambda _: answer(504, "Timeout"),
        lambda request: answer(409, "Conflict") if request.method == "PUT" else None,
        lambda request: answer(410, "Expired") if request.method == "GET" else None,
    ],
    ids=["429", "500", "503", "504", "409", "410"],
)
@pytest.mark.parametrize("n", [2, 3, 7])
def test_errors_of_the_server_cost_only_time(fault: Callable[[Request], Response | None], n: int) -> None:
    api, operator, controller = begin()
    api.before = sometimes(n, fault)
    stubborn(operator, controller)
    assert stands(api) == SUCCEEDED
    assert len(attempts(api)) == len(set(attempts(api))) == 5


@pytest.mark.parametrize("body", ["<html>", None, [], {}, {"metadata": None}, {"metadata": {}}], ids=str)
@pytest.mark.parametrize("writes", [False, True])
def test_answers_of_others_in_the_servers_place_cost_only_time(body: object, writes: bool) -> None:
    """A proxy's page, said to be all right, is no Job that has lost its owner."""
    api, operator, controller = begin()

    def another(request: Request) -> Response | None:
        here = request.writes == writes and request.method != "DELETE" and request.keep is None
        return Response(200, {}, body) if here else None

    api.before = sometimes(3, another)
    stubborn(operator, controller)
    assert stands(api) == SUCCEEDED
    assert len(attempts(api)) == len(set(attempts(api))) == 5


@pytest.mark.parametrize("n", [2, 3, 5])
def test_answers_that_are_lost_after_the_write_happened(n: int) -> None:
    api, operator, controller = begin()

    chance = random.Random(n)

    def lose(_number: int, request: Request, _response: Response) -> None:
        if request.writes and chance.random() < 1 / n:
            raise lost(request)

    api.after = lose
    stubborn(operator, controller)
    assert stands(api) == SUCCEEDED
    assert len(attempts(api)) == len(set(attempts(api))) == 5


def test_retry_after_is_honoured_and_retries_are_bounded() -> None:
    api, operator, _ = begin()
    api.before = lambda _number, _request: answer(429, "TooManyRequests", **{"Retry-After": "3"})
    with pytest.raises(UnavailableError):
        operator.reconcile()
    assert operator.slept == [3.0, 3.0]
    assert len(api.calls) == 3
    api.before = lambda _number, _request: answer(429, "TooManyRequests", **{"Retry-After": "3600"})
    with pytest.raises(UnavailableError):
        operator.reconcile()
    assert len(api.calls) == 4


def test_stale_lists_create_and_lose_nothing() -> None:
    api, operator, controller = begin()
    old: dict[str, Response] = {}

    def one_behind(number: int, request: Request, response: Response) -> Response | None:
        if request.method != "GET" or "labelSelector" not in request.query or "jobs" not in request.path:
            return None
        before, old[request.path] = old.get(request.path), copy.deepcopy(response)
        return before

    api.after = one_behind
    operator.finish(controller)
    for _ in range(5):
        operator.finish(controller)
    assert stands(api) == SUCCEEDED
    assert len(attempts(api)) == len(set(attempts(api))) == 5


def test_a_stale_run_is_not_acted_upon() -> None:
    api, operator, _ = begin()
    first = copy.deepcopy(the_run(api))
    operator.settle()
    jobs = attempts(api)
    api.after = lambda _n, request, _r: (
        Response(200, {}, first) if request.method == "GET" and request.path.endswith("/small") else None
    )
    assert operator.reconcile().again
    assert attempts(api) == jobs


def test_two_operators_at_once_make_every_attempt_once() -> None:
    api, one, controller = begin(iterations={"max": 2})
    other = ToyOperator(api)
    for _ in range(40):
        one.reconcile()
        other.reconcile()
        controller.step()
    assert stands(api) == SUCCEEDED
    assert len(attempts(api)) == len(set(attempts(api))) == 9


def test_who_does_not_hold_the_lease_writes_nothing() -> None:
    api = FakeApi()
    api.put("iterativepporuns", run_manifest())

    def closed() -> None:
        raise FencedError("not mine")

    with pytest.raises(FencedError):
        ToyOperator(api, closed).reconcile()
    assert not any(request.writes for request in api.calls)


def test_a_deleted_job_is_a_lost_attempt_and_never_a_finished_one() -> None:
    api, operator, controller = begin()
    operator.settle()
    [job] = attempts(api)
    api.remove("jobs", "team", job)
    operator.finish(controller)
    assert stands(api) == SUCCEEDED
    assert attempts(api)[1].rsplit("-", 1)[0] == "small-i0-warm-start-a2"
    for item in api.all("jobs"):
        api.remove("jobs", "team", item["metadata"]["name"])
    before = attempts(api)
    operator.finish(controller)
    assert attempts(api) == before
    assert stands(api) == SUCCEEDED


def test_a_job_whose_labels_were_taken_off_is_still_ours() -> None:
    api, operator, controller = begin()
    operator.settle()
    [job] = attempts(api)
    found = api.objects["jobs", "team", job]
    api.edit("jobs", "team", job, metadata=found["metadata"] | {"labels": {}})
    operator.finish(controller)
    assert stands(api) == SUCCEEDED
    assert len(attempts(api)) == 5


@pytest.mark.parametrize("kind", ["jobs", "configmaps"])
def test_a_strangers_object_under_our_name_stalls_the_run(kind: str) -> None:
    api, operator, controller = begin()
    operator.settle()
    [job] = attempts(api)
    for plural in ("jobs", "configmaps"):
        api.remove(plural, "team", job)
    status = status_of(api)
    status["active"]["observed"] = False
    api.edit("iterativepporuns", "team", "small", status=status)
    api.put(kind, {"metadata": {"name": job, "namespace": "team"}, "spec": {}})
    operator.settle()
    assert stands(api, "Stalled") == ("True", "ChildConflict")
    assert not controller.ran


def test_a_namesake_that_was_deleted_leaves_no_children_behind_for_the_next_run() -> None:
    api, operator, controller = begin()
    operator.settle()
    before = attempts(api)
    api.remove("iterativepporuns", "team", "small")
    assert not operator.reconcile().exists
    assert api.all("jobs") == api.all("configmaps") == []
    api.put("iterativepporuns", run_manifest())
    operator.finish(controller)
    assert stands(api) == SUCCEEDED
    assert not set(before) & set(attempts(api)[1:])


def test_a_run_that_is_being_deleted_is_left_alone() -> None:
    api, operator, _ = begin()
    run = the_run(api)
    api.edit(
        "iterativepporuns", "team", "small", metadata=run["metadata"] | {"deletionTimestamp": "2026-01-31T12:00:00Z"}
    )
    operator.settle()
    assert attempts(api) == []
    assert status_of(api) == {}


@pytest.mark.parametrize("code", [403, 422])
def test_a_job_that_the_server_refuses_is_told_and_heals(code: int) -> None:
    api, operator, controller = begin()
    refusal = answer(code, "Forbidden", "exceeded quota: team-quota")
    api.before = lambda _n, request: refusal if request.method == "POST" and "jobs" in request.path else None
    assert operator.reconcile().again
    assert stands(api, "Reconciling") == ("True", "ChildRefused")
    assert "exceeded quota: team-quota" in condition(api, "Reconciling")["message"]
    version = the_run(api)["metadata"]["resourceVersion"]
    assert operator.reconcile().again
    assert the_run(api)["metadata"]["resourceVersion"] == version
    api.before = lambda _n, _r: None
    operator.finish(controller)
    assert stands(api) == SUCCEEDED


def test_an_invalid_run_says_so_once_and_heals() -> None:
    api, operator, controller = begin()
    good = the_run(api)["spec"]
    api.edit("iterativepporuns", "team", "small", spec=good | {"artifacts": None})
    operator.settle()
    assert stands(api, "Stalled") == ("True", "InvalidSpec")
    assert "artifacts" in condition(api, "Accepted")["message"]
    version = the_run(api)["metadata"]["resourceVersion"]
    operator.reconcile()
    assert the_run(api)["metadata"]["resourceVersion"] == version
    api.edit("iterativepporuns", "team", "small", spec=good)
    operator.finish(controller)
    assert stands(api) == SUCCEEDED
    assert stands(api, "Accepted")[0] == "True"


def test_a_status_that_we_did_not_write_is_left_alone() -> None:
    api, operator, _ = begin()
    api.edit("iterativepporuns", "team", "small", status={"stage": "brew-coffee"})
    with pytest.raises(UnreadableStatusError, match=r"status\.stage"):
        operator.reconcile()
    assert not any(request.writes for request in api.calls)


def test_a_job_that_is_done_but_whose_pods_are_gone_is_tried_again_without_cost() -> None:
    api, operator, controller = begin(retries={"crashes": 0})
    operator.settle()
    [first] = attempts(api)
    controller.step()
    controller.step()
    for pod in api.all("pods"):
        api.remove("pods", "team", pod["metadata"]["name"])
    operator.finish(controller)
    assert stands(api) == SUCCEEDED
    assert attempts(api)[:2] == [first, attempts(api)[1]]
    assert len(attempts(api)) == 6


def test_suspension_waits_for_the_checkpoint_and_resumes_with_a_new_attempt() -> None:
    api, operator, controller = begin()
    operator.settle()
    controller.step()
    spec = the_run(api)["spec"]
    api.edit("iterativepporuns", "team", "small", spec=spec | {"suspend": True})
    operator.settle()
    [job] = api.all("jobs")
    assert "deletionTimestamp" in job["metadata"]
    assert stands(api, "Suspended")[0] == "False"
    deletes = [request for request in api.calls if request.method == "DELETE"]
    operator.settle()
    assert [request for request in api.calls if request.method == "DELETE"] == deletes
    controller.step()
    operator.settle()
    assert stands(api, "Suspended") == ("True", "Suspended")
    api.edit("iterativepporuns", "team", "small", spec=spec)
    operator.finish(controller)
    assert stands(api) == SUCCEEDED
    assert status_of(api)["budgets"]["disruptions"] == 0


def test_an_idle_run_costs_no_writes() -> None:
    api, operator, controller = begin()
    operator.finish(controller)
    done = len(api.calls)
    for _ in range(3):
        operator.reconcile()
    later = api.calls[done:]
    assert len(later) == 6
    assert not any(request.writes for request in later)


def test_a_stage_costs_at_most_six_writes() -> None:
    api, operator, controller = begin(iterations={"max": 3})
    operator.finish(controller)
    assert sum(request.writes for request in api.calls) <= 6 * len(attempts(api))


def test_pods_that_cannot_be_created_are_told_within_seconds_and_heal() -> None:
    api, operator, controller = begin()
    assert operator.settle().requeue_after == 4
    complain(api, 'error looking up service account team/trainer: serviceaccount "trainer" not found')
    operator.now += timedelta(seconds=4)
    assert operator.settle().requeue_after == 4
    assert stands(api, "Reconciling") == ("True", "PodRefused")
    assert 'serviceaccount "trainer" not found' in condition(api, "Reconciling")["message"]
    operator.finish(controller)
    assert stands(api) == SUCCEEDED
    assert len(attempts(api)) == 5


def test_jobs_are_cleaned_up_by_outcome_and_nothing_runs_again() -> None:
    api, operator, controller = begin(cleanup={"succeededSeconds": 2000, "failedSeconds": 9000}, retries={"crashes": 1})
    crashes = iter([True])
    controller.ending = lambda spec: (1, "bug") if next(crashes, False) else good_result(spec)
    operator.finish(controller)
    assert len(api.all("jobs")) == len(api.all("configmaps")) == 6
    status = status_of(api)
    assert 1900 < (operator.settle().requeue_after or 0) <= 2000
    operator.now += timedelta(seconds=2000)
    operator.settle()
    [kept] = api.all("jobs")
    assert kept["metadata"]["labels"]["ippo.dev/attempt"] == "1"
    assert [item["metadata"]["name"] for item in api.all("configmaps")] == [kept["metadata"]["name"]]
    operator.now += timedelta(seconds=7000)
    assert operator.settle().requeue_after is None
    assert api.all("jobs") == api.all("pods") == api.all("configmaps") == []
    operator.finish(controller)
    assert status_of(api) == status
    assert len(attempts(api)) == 6
