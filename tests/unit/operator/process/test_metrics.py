"""Counters tell of status changes, each once, whatever goes wrong around the writes."""

import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from ippo_operator.api.reasons import Reason
from ippo_operator.api.status import ActiveAttempt, FailedRollout, RunStatus, ServedPolicy, ServingStatus, Waiting
from ippo_operator.cluster import errors
from ippo_operator.cluster.errors import ApiError, UnavailableError
from ippo_operator.cluster.reconcile import Reconciler
from ippo_operator.cluster.transport import Request, Response
from ippo_operator.process.metrics import ERROR_KINDS, PHASES, WAITS, CountingTransport, Metrics
from ippo_trainer.contract.digests import digest_of
from ippo_trainer.contract.spec import StageResult, StageSpec

from tests.kit.fake_api import Died, FakeApi, answer, lost
from tests.kit.planner_world import START, good_result, make_run
from tests.kit.toy_cluster import PLATFORM, ToyController, ToyOperator, attempts, run_manifest

SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


def samples(metrics: Metrics) -> dict[str, float]:
    """Every sample by its name and labels."""
    return {f"{name}{{{labels}}}": float(value) for name, labels, value in SAMPLE.findall(metrics.text().decode())}


def total(metrics: Metrics, name: str) -> float:
    return sum(value for sample, value in samples(metrics).items() if sample.split("{")[0] == name)


class Counted(ToyOperator):
    """A process with metrics of its own."""

    def __init__(self, api: FakeApi) -> None:
        super().__init__(api)
        self.metrics = Metrics(lambda: self.now)
        self.reconciler = Reconciler(
            self.client, PLATFORM, "test", wall=lambda: self.now, watcher=self.metrics.status_written
        )


def world(**spec: Any) -> FakeApi:
    api = FakeApi()
    api.put("iterativepporuns", run_manifest(**spec))
    return api


def test_a_run_counts_its_attempts_decisions_and_end() -> None:
    api = world(iterations={"max": 2})
    operator = Counted(api)
    operator.finish(ToyController(api))
    values = samples(operator.metrics)
    assert total(operator.metrics, "ippo_stage_attempts_total") == len(attempts(api)) == 9
    assert values['ippo_stage_attempts_total{reason="Completed",stage="collect"}'] == 2
    assert values['ippo_promotions_total{outcome="Promote"}'] == 2
    assert values['ippo_runs_ended_total{outcome="Completed"}'] == 1
    assert values['ippo_stage_duration_seconds_count{outcome="Succeeded",stage="warm-start"}'] == 1


def test_failures_count_by_reason() -> None:
    api = world(retries={"crashes": 1, "backoffSeconds": 1})
    failures = iter([(1, "boom")])

    def ending(spec: StageSpec) -> StageResult | tuple[int, str]:
        return next(failures, None) or good_result(spec)

    operator = Counted(api)
    operator.finish(ToyController(api, ending))
    values = samples(operator.metrics)
    assert values['ippo_stage_attempts_total{reason="UserCodeFailed",stage="warm-start"}'] == 1
    assert values['ippo_stage_duration_seconds_count{outcome="Failed",stage="warm-start"}'] == 1
    assert total(operator.metrics, "ippo_stage_attempts_total") == len(attempts(api)) == 6


@pytest.mark.parametrize(("suspend", "reason"), [(True, "Suspended"), (False, "Replaced")])
def test_an_attempt_that_was_stopped_counts_by_what_stopped_it(suspend: bool, reason: str) -> None:
    metrics = Metrics(lambda: START)
    active = ActiveAttempt(job_name="collect", input_digest=digest_of({}), created_at=START, stopping=True)
    status = RunStatus(stage="collect", iteration=1, active=active)
    run = make_run(suspend=suspend).model_copy(update={"status": status})
    metrics.status_written(run, status.model_copy(update={"active": None}))
    counts = samples(metrics)
    assert counts[f'ippo_stage_attempts_total{{reason="{reason}",stage="collect"}}'] == 1
    assert counts['ippo_stage_duration_seconds_count{outcome="Stopped",stage="collect"}'] == 1


def test_a_run_that_stalls_counts_once() -> None:
    api = world()
    operator = Counted(api)
    operator.finish(ToyController(api, lambda _: (64, "wrong")))
    operator.settle()
    assert samples(operator.metrics)['ippo_runs_ended_total{outcome="Stalled"}'] == 1


def disturbances() -> Iterator[Any]:
    """Answers in the place of, or after, every fifth write of the status."""

    def conflict(request: Request, done: bool) -> Response | None:
        return answer(409, "Conflict") if not done else None

    def timeout(request: Request, done: bool) -> Response | None:
        raise lost(request)

    def late(request: Request, done: bool) -> Response | None:
        if done:
            raise lost(request)
        return None

    yield pytest.param(conflict, id="conflict")
    yield pytest.param(timeout, id="no answer and no effect")
    yield pytest.param(late, id="no answer after the effect")


@pytest.mark.parametrize("fault", disturbances())
def test_nothing_counts_twice_when_status_writes_go_wrong(fault: Any) -> None:
    api = world(iterations={"max": 2})
    writes, hit = 0, False

    def before(_: int, request: Request) -> Response | None:
        nonlocal writes, hit
        hit = False
        if request.method == "PUT" and request.path.endswith("/status"):
            writes += 1
            hit = writes % 5 == 0
        return fault(request, False) if hit else None

    def after(_: int, request: Request, __: Response) -> Response | None:
        return fault(request, True) if hit else None

    api.before, api.after = before, after
    operator, controller = Counted(api), ToyController(api)
    for _ in range(50):
        try:
            operator.finish(controller)
            break
        except UnavailableError:
            continue
    counted = total(operator.metrics, "ippo_stage_attempts_total")
    assert len(attempts(api)) == 9
    if fault.__name__ == "late":
        assert 0 < counted <= 9  # what nobody knows to be written is not counted
    else:
        assert counted == 9
    assert total(operator.metrics, "ippo_promotions_total") <= 2
    assert total(operator.metrics, "ippo_runs_ended_total") <= 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_all_processes_together_count_nothing_twice(when: str) -> None:
    """A process dies around each of its status writes; the sum over all of them is what happened, or less."""
    api = world()
    controller, counted = ToyController(api), 0.0
    for _ in range(100):
        operator = Counted(api)
        seen = 0

        def die(request: Request) -> None:
            nonlocal seen
            if request.method == "PUT" and request.path.endswith("/status"):
                seen += 1
                if seen == 2:
                    raise Died

        api.before = lambda _n, request: die(request) if when == "before" else None
        api.after = lambda _n, request, _r: die(request) if when == "after" else None
        try:
            operator.finish(controller)
        except Died:
            counted += total(operator.metrics, "ippo_stage_attempts_total")
            continue
        counted += total(operator.metrics, "ippo_stage_attempts_total")
        break
    assert len(attempts(api)) == 5
    assert counted == 5 if when == "before" else counted <= 5


def served(number: int) -> ServedPolicy:
    return ServedPolicy(iteration=number, digest=digest_of(number), key="k", settings=digest_of("settings"))


def test_rollouts_count_when_they_end() -> None:
    now = START + timedelta(seconds=40)
    metrics = Metrics(lambda: now)
    run = make_run()
    first = ServingStatus(target=served(0), waiting_since=START)
    ready = ServingStatus(active=served(0), target=served(0))
    aimed = ready.model_copy(update={"target": served(1), "waiting_since": START})
    failed = FailedRollout(**dict(served(1)), reason=Reason.ROLLED_BACK, time=START)
    back = ServingStatus(active=served(0), target=served(0), waiting_since=START, failed=failed)
    history = [None, first, ready, ready, aimed, back, back, back.model_copy(update={"waiting_since": None})]
    for before, after in pairwise(history):
        metrics.status_written(run.model_copy(update={"status": RunStatus(serving=before)}), RunStatus(serving=after))
    values = samples(metrics)
    assert values['ippo_rollouts_total{outcome="RolledOut"}'] == 1
    assert values['ippo_rollouts_total{outcome="RolledBack"}'] == 1
    assert values['ippo_rollouts_total{outcome="RolloutTimedOut"}'] == 0
    assert values["ippo_rollout_duration_seconds_sum{}"] == 40


def test_what_runs_wait_for_and_how_long() -> None:
    metrics = Metrics(lambda: START + timedelta(hours=2))
    waits = Waiting(reason=Reason.WAITING_FOR_QUOTA, message="waits")
    active = ActiveAttempt(job_name="j", input_digest=digest_of(1), created_at=START, observed=True, waiting=waits)
    status = RunStatus(stage="warm-start", attempt=1, active=active)
    metrics.phase_of(("team", "small"), make_run().model_copy(update={"status": status}))
    values = samples(metrics)
    assert values['ippo_runs_waiting{reason="WaitingForQuota"}'] == 1
    assert values['ippo_longest_wait_seconds{reason="WaitingForQuota"}'] == 7200
    assert values['ippo_longest_wait_seconds{reason="Unschedulable"}'] == 0
    metrics.phase_of(("team", "small"), None)
    assert samples(metrics)['ippo_runs_waiting{reason="WaitingForQuota"}'] == 0


def test_counters_that_alerts_look_at_are_there_before_anything_happens() -> None:
    values = samples(Metrics())
    assert all(f'ippo_runs{{phase="{phase}"}}' in values for phase in PHASES)
    assert all(f'ippo_runs_waiting{{reason="{reason}"}}' in values for reason in WAITS)
    assert all(f'ippo_reconcile_errors_total{{kind="{kind}"}}' in values for kind in ERROR_KINDS)
    assert 'ippo_runs_ended_total{outcome="Stalled"}' in values


def test_every_error_of_the_api_server_is_counted_by_its_name_and_none_as_a_bug() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ApiError)]
    metrics = Metrics()
    for kind in kinds:
        metrics.failed(kind.__name__)
    values = samples(metrics)
    assert {values[f'ippo_reconcile_errors_total{{kind="{kind.__name__}"}}'] for kind in kinds} == {1}
    assert {kind.__name__ for kind in kinds} == {*ERROR_KINDS} - {"UnreadableStatusError", "Bug"}
    assert values['ippo_reconcile_errors_total{kind="Bug"}'] == 0


def test_requests_count_with_their_outcome_also_where_no_answer_comes() -> None:
    metrics = Metrics()

    class Silent:
        async def send(self, request: Request, timeout: float) -> Response:
            raise UnavailableError("no answer")

    transport = CountingTransport(Silent(), metrics)
    with pytest.raises(UnavailableError):
        asyncio.run(transport.send(Request("GET", "/apis/ippo.dev/v1alpha1/namespaces/t/iterativepporuns/x"), 1))
    values = samples(metrics)
    assert values['ippo_api_requests_total{code="0",method="GET",resource="iterativepporuns"}'] == 1
    assert values['ippo_api_request_seconds_count{method="GET"}'] == 1


def test_no_label_carries_a_name_or_uid() -> None:
    api = world()
    operator = Counted(api)
    operator.finish(ToyController(api))
    run = make_run().model_copy(update={"status": RunStatus()})
    operator.metrics.phase_of(("team", "small"), run)
    text = operator.metrics.text().decode()
    uid = api.objects["iterativepporuns", "team", "small"]["metadata"]["uid"]
    assert "small" not in text
    assert "team" not in text
    assert uid not in text
    assert datetime.now(UTC).strftime("%Y") not in text
