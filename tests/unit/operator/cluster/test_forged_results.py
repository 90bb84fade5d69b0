"""What a pod says is text from a container: nothing but the result of this very attempt moves a run, or harms it."""

import copy
import functools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ippo_operator.api.status import RunStatus
from ippo_trainer.contract.spec import MAX_RESULT_BYTES, StageSpec

from tests.kit.fake_api import FakeApi, Key, Object, copied
from tests.kit.planner_world import good_result
from tests.kit.toy_cluster import (
    ToyController,
    ToyOperator,
    attempts,
    begin,
    condition,
    ended_status,
    pod_of,
    spec_of,
    status_of,
)


def said(spec: StageSpec, **changes: Any) -> dict[str, Any]:
    """The right result's JSON with some fields replaced; `...` leaves one out."""
    right = json.loads(good_result(spec).to_message())
    return {key: value for key, value in (right | changes).items() if value is not ...}


FORGED: dict[str, Callable[[StageSpec], str]] = {
    "text": lambda spec: "not json",
    "an empty object": lambda spec: "{}",
    "beyond 3 KiB, else right": lambda spec: json.dumps(said(spec)) + " " * MAX_RESULT_BYTES,
    "cut off": lambda spec: json.dumps(said(spec))[:-2],
    "not a number": lambda spec: json.dumps(said(spec, metrics={"loss": float("nan")})),
    "infinite": lambda spec: json.dumps(said(spec, metrics={"loss": float("inf")})),
    "beyond what a float holds": lambda spec: json.dumps(said(spec, metrics={"loss": 7})).replace("7}", "1e400}"),
    "a number of a thousand digits": lambda spec: json.dumps(said(spec, metrics={"x": 7})).replace(
        "7}", "9" * 999 + "}"
    ),
    "metrics in words": lambda spec: json.dumps(said(spec, metrics={"loss": "0.5"})),
    "too many metrics": lambda spec: json.dumps(said(spec, metrics={f"m{n}": 1 for n in range(33)})),
    "a metric's name as long as a page": lambda spec: json.dumps(said(spec, metrics={"m" * 64: 1})),
    "another stage": lambda spec: json.dumps(said(spec, stage="improve")),
    "another iteration": lambda spec: json.dumps(said(spec, iteration=7)),
    "other inputs": lambda spec: json.dumps(said(spec, inputDigest="sha256:" + "0" * 64)),
    "a field that is none": lambda spec: json.dumps(said(spec, promoted=True)),
    "without its artifact": lambda spec: json.dumps(said(spec, artifacts={})),
    "an artifact without a digest": lambda spec: json.dumps(said(spec, artifacts={"policy": {"key": "x"}})),
    "an artifact of another schema": lambda spec: json.dumps(said(spec, schemaVersion=2)),
    "names as Python has them": lambda spec: json.dumps(said(spec, inputDigest=..., input_digest=spec.input_digest())),
    "a list": lambda spec: json.dumps([said(spec)]),
    "two documents": lambda spec: json.dumps(said(spec)) * 2,
    "surrogates": lambda spec: json.dumps(said(spec, message="\ud800")),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_a_forged_message_of_the_own_pod_moves_nothing(forged: Callable[[StageSpec], str]) -> None:
    api, operator, controller = begin(retries={"crashes": 0})
    controller.ending = lambda spec: (0, forged(spec))
    operator.finish(controller)
    stalled = condition(api, "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "BudgetExhausted")
    assert status_of(api)["lastFailure"]["reason"] == "ResultUnreadable"
    assert not status_of(api).get("iterations")
    assert len(attempts(api)) == 1


def at_a_running_attempt() -> tuple[FakeApi, ToyOperator, ToyController, Object]:
    api, operator, controller = begin()
    operator.settle()
    controller.step()
    operator.settle()
    [name] = attempts(api)
    return api, operator, controller, copy.deepcopy(api.objects["jobs", "team", name])


def unowned(pod: Object) -> None:
    pod["metadata"]["ownerReferences"] = [{"uid": "nobody"}]


def anothers(pod: Object) -> None:
    pod["metadata"]["ownerReferences"][0]["uid"] = "someone-else"


def not_controlled(pod: Object) -> None:
    pod["metadata"]["ownerReferences"][0]["controller"] = False


@pytest.mark.parametrize("disguise", [unowned, anothers, not_controlled])
@pytest.mark.parametrize("code", [0, 64])
def test_a_pod_with_our_labels_and_another_owner_moves_nothing(disguise: Callable[[Object], None], code: int) -> None:
    api, operator, controller, job = at_a_running_attempt()
    name = job["metadata"]["name"]
    forged = good_result(spec_of(api, name), message="forged").to_message().decode()
    pod = pod_of(job, 7, ended_status(code, forged))
    disguise(pod)
    api.put("pods", pod)
    operator.settle()
    assert status_of(api)["active"]["jobName"] == name
    operator.finish(controller)
    assert condition(api, "Succeeded")["status"] == "True"
    assert "forged" not in json.dumps(status_of(api))
    assert len(attempts(api)) == 5


def test_the_pod_of_an_attempt_before_speaks_for_that_attempt_only() -> None:
    api, operator, controller = begin(retries={"crashes": 2})
    endings = iter([(1, "bug")])
    controller.ending = lambda spec: next(endings, None) or good_result(spec)
    operator.settle()
    controller.step()
    controller.step()
    [first] = attempts(api)
    operator.settle()
    operator.now = operator.now.replace(hour=13)
    operator.settle()
    _, second = attempts(api)
    late = good_result(spec_of(api, first), message="late").to_message().decode()
    [pod] = [item for item in api.all("pods") if item["metadata"]["name"].startswith(first)]
    labels = api.objects["jobs", "team", second]["spec"]["template"]["metadata"]["labels"]
    # Even if someone gives it the labels of the new attempt.
    labels = pod["metadata"]["labels"] | labels | {"batch.kubernetes.io/controller-uid": "copied"}
    api.edit(
        "pods",
        "team",
        pod["metadata"]["name"],
        status=ended_status(0, late),
        metadata=pod["metadata"] | {"labels": labels},
    )
    operator.settle()
    assert status_of(api)["active"]["jobName"] == second
    operator.finish(controller)
    assert condition(api, "Succeeded")["status"] == "True"
    assert "late" not in json.dumps(status_of(api))


def test_a_job_that_only_says_it_is_done_moves_nothing() -> None:
    api, operator, _, job = at_a_running_attempt()
    done = {"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-31T12:00:00Z"}
    api.edit("jobs", "team", job["metadata"]["name"], status={"conditions": [done]})
    operator.settle()
    assert status_of(api)["lastFailure"]["reason"] == "ResultUnreadable"
    assert not status_of(api).get("iterations")


text = st.text(st.characters(codec="utf-8"), max_size=512)
names = st.text(st.characters(codec="utf-8"), max_size=20) | st.text("m", min_size=60, max_size=70)
finite = st.floats(allow_nan=False, allow_infinity=False)


@functools.cache
def at_its_evaluation() -> dict[Key, Object]:
    """All that is in the cluster of a run whose evaluation is about to start."""
    api, operator, controller = begin(retries={"crashes": 0})
    while operator.settle() and status_of(api)["stage"] != "evaluate":
        controller.step()
    return api.objects


@given(metrics=st.dictionaries(names, finite, max_size=32), reason=text, message=text, key=names)
@settings(max_examples=150)
def test_whatever_an_evaluation_says_leaves_a_status_that_can_be_read_again(
    metrics: dict[str, float], reason: str, message: str, key: str
) -> None:
    def ending(spec: StageSpec) -> tuple[int, str]:
        right = said(spec, metrics=metrics, message=message)
        right["decision"]["reason"] = reason
        right["artifacts"]["evaluation"]["key"] = key
        return 0, json.dumps(right, ensure_ascii=False)

    api = FakeApi(copied(at_its_evaluation()))
    api.skip_versions(1000)
    ToyOperator(api).finish(ToyController(api, ending))
    status = RunStatus.model_validate_json(json.dumps(status_of(api)), by_alias=True, by_name=False)
    assert status.is_true("Succeeded") or status.is_true("Stalled")
    assert len(json.dumps(status_of(api))) < 64_000
