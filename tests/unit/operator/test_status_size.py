"""The status stays small whatever stages say and however long a run goes on."""

from ippo_operator.api.reasons import Reason
from ippo_operator.api.status import (
    MAX_HISTORY,
    MAX_MESSAGE,
    MAX_METRICS,
    FailedRollout,
    LiveStatus,
    RunStatus,
    ServedPolicy,
    ServingStatus,
    Waiting,
)
from ippo_operator.plan.types import JobFailure, JobIntent
from ippo_trainer.contract.digests import digest_of
from ippo_trainer.contract.spec import MAX_RESULT_BYTES, Decision, StageResult

from tests.kit.planner_world import START, Cluster, Outcome, good_result, make_run

MAX_STATUS = 64 * 1024


def largest_result(intent: JobIntent) -> StageResult:
    """As much as fits into a termination message."""
    metrics = {f"{number:02d}".ljust(30, "m"): -1.23456e-123 for number in range(MAX_METRICS)}
    for length in range(512, 0, -1):
        decision = Decision(outcome="Reject", reason="x" * length)
        result = good_result(intent.spec, metrics=metrics, decision=decision)
        if len(result.model_dump_json(by_alias=True, exclude_none=True).encode()) <= MAX_RESULT_BYTES:
            return result
    raise AssertionError("nothing fits")


def largest_serving() -> ServingStatus:
    """Servers that cannot be rolled out, with all that can be said about it."""
    policy = ServedPolicy(iteration=1000, digest=digest_of(1), key="k" * 900, settings=digest_of(2))
    failed = FailedRollout(**dict(policy), reason=Reason.ROLLED_BACK, message="ü" * MAX_MESSAGE, time=START)
    waits = Waiting(reason=Reason.UNSCHEDULABLE, message="ü" * MAX_MESSAGE)
    return ServingStatus(active=policy, target=policy, waiting_since=START, waiting=waits, blocked=waits, failed=failed)


def test_the_status_of_a_thousand_iterations_with_the_largest_results_and_servers_fits() -> None:
    def outcome(intent: JobIntent) -> Outcome:
        if intent.spec.attempt == 1 and intent.spec.stage == "evaluate":
            return JobFailure(1, "ü" * MAX_MESSAGE * 2)
        return largest_result(intent) if intent.spec.stage == "evaluate" else good_result(intent.spec)

    # Only the latest iterations are kept, so a few more than these show what a thousand do.
    limit = MAX_HISTORY + 5
    world = Cluster(
        make_run(iterations={"max": limit}, historyLimit=MAX_HISTORY, retries={"crashes": 1, "backoffSeconds": 0})
    )
    world.drive(outcome)
    status = world.run.status
    assert status is not None
    assert 10 <= len(status.iterations) <= MAX_HISTORY
    assert status.iterations[-1].decision is not None
    longest = {"message": "ü" * (MAX_MESSAGE // 2)}
    told = tuple(condition.model_copy(update=longest) for condition in status.conditions[:5])
    trouble = Waiting(reason=Reason.GATEWAY_UNREACHABLE, message="ü" * MAX_MESSAGE)
    live = LiveStatus(policy=digest_of(3), counted_at=START, until=2**40, trouble=trouble)
    changes = {"completed_iterations": 1000, "iteration": 1000, "progress": "1000/1000", "live": live}
    whole = status.model_copy(
        update=changes | {"conditions": told + status.conditions[5:], "serving": largest_serving()}
    )
    size = len(whole.model_dump_json(by_alias=True, exclude_none=True).encode())
    assert size <= MAX_STATUS, size
    assert RunStatus.model_validate_json(whole.model_dump_json(by_alias=True, exclude_none=True)) == whole


def test_ordinary_results_keep_the_whole_history() -> None:
    def outcome(intent: JobIntent) -> Outcome:
        metrics = {f"valueOfPolicy{number:02d}": -0.123456 for number in range(14)}
        decision = Decision(outcome="Promote", reason="The lower bound of the difference is 0.0123, above 0." * 3)
        return good_result(
            intent.spec, **({"metrics": metrics, "decision": decision} if intent.spec.stage == "evaluate" else {})
        )

    world = Cluster(make_run(iterations={"max": MAX_HISTORY + 5}))
    world.drive(outcome)
    assert world.run.status is not None
    assert len(world.run.status.iterations) == MAX_HISTORY
