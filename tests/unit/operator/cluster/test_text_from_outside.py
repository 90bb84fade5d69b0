"""Whatever the world says: no pass fails for a string, and what the run and its events repeat is one printable line."""

import json
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ippo_operator.api.status import MAX_MESSAGE
from ippo_operator.process.logs import JsonFormatter, TextFormatter
from ippo_trainer.contract.spec import StageResult, StageSpec

from tests.kit import toy_cluster
from tests.kit.fake_api import FakeApi, Object, answer
from tests.kit.planner_world import good_result
from tests.kit.toy_cluster import ToyController, ToyOperator, ended_status, pod_of

HOSTILE = {
    "half a surrogate": "\ud83d",
    "the other half": "x\udc00y",
    "repaints the screen": "\x1b[2J\x1b[1;1Happroved \x1b]0;title\x07",
    "nul": "a\x00b",
    "C1": "\x9b31m \x85 \x90q\x9c",
    "right to left": "\u202egpj.exe\u2066",
    "hidden": "a\u200b\u00ad\ufeff\U000e0041b",
    "lines": "done\n2026-01-31T12:00:00Z INFO forged\r\u2028small: Succeeded",
    "long": "\U0001f642" * 3000,
    "blanks": " \t\n" * 3000,
    "braces": '{"error": {"message": "' * 100,
}
ERROR_OF_A_KIND: dict[str, Callable[[str], Any]] = {
    "text": lambda text: text,
    "a list": lambda text: [text],
    "a number": lambda text: 1e308,
    "nothing": lambda text: None,
}


def fragile(ending: toy_cluster.Ending = good_result, **spec: Any) -> tuple[FakeApi, ToyOperator, ToyController]:
    return toy_cluster.begin(ending, **{"retries": {"crashes": 0}} | spec)


def ends_with(message: str, code: int = 1) -> FakeApi:
    api, operator, controller = fragile(lambda _spec: (code, message))
    operator.finish(controller)
    return api


def evaluates(**said: Any) -> FakeApi:
    """A run whose evaluation says that, as JSON."""

    def ending(spec: StageSpec) -> StageResult | tuple[int, str]:
        right = json.loads(good_result(spec).to_message())
        if spec.stage != "evaluate":
            return good_result(spec)
        decision = right["decision"] | {"reason": said.pop("reason", "r")[:512]}
        return 0, json.dumps(right | {"decision": decision} | said)

    api, operator, controller = fragile(ending)
    operator.finish(controller)
    return api


def pod_says(status: Object, job_over: bool = False) -> FakeApi:
    """A run whose first pod has that status."""
    api, operator, _ = fragile()
    operator.settle()
    [job] = api.all("jobs")
    api.put("pods", pod_of(job, 0, status))
    if job_over:
        failed = {"type": "Failed", "status": "True", "lastTransitionTime": "2026-01-31T12:00:00Z"}
        api.edit("jobs", "team", job["metadata"]["name"], status={"conditions": [failed]})
    operator.now += timedelta(seconds=30)
    operator.settle()
    return api


def waits(reason: str, text: str) -> Object:
    container = {"name": "stage", "image": text, "state": {"waiting": {"reason": reason, "message": text}}}
    return {"phase": "Pending", "containerStatuses": [container]}


def unschedulable(text: str) -> Object:
    told = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": text}
    return {"phase": "Pending", "conditions": [told]}


def beside(text: str) -> Object:
    ended = {"exitCode": 3, "message": text, "reason": text}
    return {"phase": "Failed", "containerStatuses": [{"name": text, "state": {"terminated": ended}}]}


def complained(text: str) -> FakeApi:
    api, operator, _ = fragile()
    operator.settle()
    toy_cluster.complain(api, text)
    operator.now += timedelta(seconds=30)
    operator.settle()
    return api


def job_says(text: str) -> FakeApi:
    api, operator, _ = fragile()
    operator.settle()
    [job] = api.all("jobs")
    failed = {"type": "Failed", "status": "True", "reason": text, "message": text}
    failed["lastTransitionTime"] = "2026-01-31T12:00:00Z"
    api.edit("jobs", "team", job["metadata"]["name"], status={"conditions": [failed]})
    operator.settle()
    return api


def refused(text: str, plural: str) -> FakeApi:
    api, operator, controller = fragile(serve={"engine": "Transformers"})
    no = answer(403, "Forbidden", text)
    api.before = lambda _n, request: no if request.writes and f"/{plural}" in request.path else None
    for _ in range(6):
        operator.reconcile()
        controller.step()
    return api


def server_says(text: str) -> FakeApi:
    api, operator, controller = fragile(serve={"engine": "Transformers"})
    controller.serves = lambda _template: False
    for _ in range(4):
        operator.settle()
        controller.step()
    [deployment] = api.all("deployments")
    [replica_set] = api.all("replicasets")
    pod = pod_of(replica_set | {"spec": deployment["spec"]}, 0, ended_status(1, text))
    pod["metadata"] |= deployment["spec"]["template"]["metadata"]
    api.put("pods", pod)
    stuck = {"type": "ReplicaFailure", "status": "True", "reason": text, "message": text}
    api.edit("deployments", "team", "small", status=deployment["status"] | {"conditions": [stuck]})
    operator.settle()
    return api


def bad_spec(text: str) -> FakeApi:
    api, operator, _ = fragile(policy={"base": text}, seed=text)
    operator.reconcile()
    return api


def node_is_lost(text: str) -> FakeApi:
    api, operator, _ = fragile()
    operator.settle()
    [job] = api.all("jobs")
    pod = pod_of(job, 0, {"phase": "Running"})
    pod["metadata"]["deletionTimestamp"] = "2026-01-31T11:00:00Z"
    pod["spec"] = {"nodeName": text}
    api.put("pods", pod)
    operator.settle()
    return api


ENTRIES: dict[str, Callable[[str], FakeApi]] = {
    "an error's message": lambda text: ends_with(json.dumps({"error": {"reason": text, "message": text}})),
    "the end of a log": lambda text: ends_with(text),
    "of data": lambda text: ends_with(text, 65),
    "a result's message": lambda text: evaluates(message=text[:512]),
    "a warning": lambda text: evaluates(warnings=[text[:300]]),
    "the gate's reason": lambda text: evaluates(reason=text),
    "the name of a figure": lambda text: evaluates(metrics={text[:40]: 1.0}),
    "an artifact's key": lambda text: evaluates(
        artifacts={"evaluation": {"key": text[:99], "digest": "sha256:" + 64 * "0"}}
    ),
    "an image": lambda text: pod_says(waits("ErrImagePull", text)),
    "a container that cannot be made": lambda text: pod_says(waits("CreateContainerConfigError", text)),
    "the scheduler": lambda text: pod_says(unschedulable(text)),
    "an eviction": lambda text: pod_says({"phase": "Failed", "reason": "Evicted", "message": text}, job_over=True),
    "a lost pod": lambda text: pod_says({"phase": "Failed", "reason": "NodeLost", "message": text}, job_over=True),
    "a container of somebody else": lambda text: pod_says(beside(text), job_over=True),
    "the Job controller's event": complained,
    "the Job's condition": job_says,
    "a refusal of the Job": lambda text: refused(text, "jobs"),
    "a refusal of the Deployment": lambda text: refused(text, "deployments"),
    "a server": server_says,
    "a spec": bad_spec,
    "a node": node_is_lost,
}


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from (key, *strings(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def check(api: FakeApi) -> None:
    """Of all that the operator wrote about the run."""
    [run] = api.all("iterativepporuns")
    assert run["status"]["conditions"]
    notes = [event["note"] for event in api.all("events") if "note" in event]
    for text in [*strings(run["status"]), *notes]:
        assert text.isprintable()
        assert len(text.encode()) <= MAX_MESSAGE


@pytest.mark.parametrize("hostile", ["\ud83d", "".join(HOSTILE.values())], ids=["half", "all"])
@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_text_of_others_becomes_a_line(entry: Callable[[str], FakeApi], hostile: str) -> None:
    check(entry(hostile))


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_any_of_it_may_be_a_stages_last_words(hostile: str) -> None:
    check(ENTRIES["an error's message"](hostile))
    check(ENTRIES["the end of a log"](hostile))


@given(st.text(st.characters(codec=None), max_size=60), st.sampled_from(sorted(ERROR_OF_A_KIND)))
@settings(max_examples=40)
def test_an_error_message_of_any_text_and_kind_ends_the_attempt(text: str, kind: str) -> None:
    api = ends_with(json.dumps({"error": {"message": ERROR_OF_A_KIND[kind](text)}}))
    check(api)
    [run] = api.all("iterativepporuns")
    assert run["status"]["lastFailure"]["exitCode"] == 1


DEEP = {
    "lists": '{"error": {"message": ' + "[" * 900 + "]" * 900 + "}}",
    "beyond the stack": "[" * 4000,
    "objects": '{"error": ' * 400 + "1" + "}" * 400,
    "a number of many digits": '{"error": {"message": ' + "9" * 4000 + "}}",
    "not a number": '{"error": {"message": NaN}}',
    "twice": '{"error": {"message": "a", "message": "b"}, "error": 1}',
}


@pytest.mark.parametrize("code", [0, 1, 65])
@pytest.mark.parametrize("message", DEEP.values(), ids=DEEP)
def test_json_that_is_deep_odd_or_doubled_ends_the_attempt(message: str, code: int) -> None:
    api = ends_with(message, code)
    check(api)
    [run] = api.all("iterativepporuns")
    assert run["status"]["lastFailure"]


def test_no_time_stops_a_pass() -> None:
    """Whoever may write the status of a Job or a Deployment can write any."""
    pods = {"common": {"pendingDeadlineSeconds": 60}}
    api, operator, controller = fragile(serve={"engine": "Transformers"}, pods=pods)
    for _ in range(12):
        operator.reconcile()
        controller.step()
        for (kind, place, name), item in list(api.objects.items()):
            if kind in {"jobs", "pods", "deployments"} and "status" in item:
                text = json.dumps(item["status"]).replace("2026-01-31T12:00", "9999-12-31T23:59")
                api.edit(kind, place, name, status=json.loads(text))
    check(api)
    operator.finish(controller)
    [run] = api.all("iterativepporuns")
    assert run["status"]["progress"] == "1/1"


def logged(text: str, traceback: bool = False) -> logging.LogRecord:
    try:
        raise ValueError(text)
    except ValueError as error:
        told = (type(error), error, error.__traceback__) if traceback else None
    return logging.LogRecord("ippo", logging.INFO, __file__, 1, "said: %s", (text,), told)


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_no_text_forges_a_line_of_the_operators_log(hostile: str) -> None:
    plain = TextFormatter().format(logged(hostile))
    assert plain.isprintable()
    _, *rest = TextFormatter().format(logged(hostile, traceback=True)).split("\n")
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
    assert json.loads(JsonFormatter().format(logged(hostile)))["message"].isprintable()
