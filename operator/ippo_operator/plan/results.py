"""What a completed stage changes: its artifact is recorded, and the run moves on."""

from datetime import datetime

from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.contract.layout import check_key
from ippo_trainer.contract.spec import ArtifactRef, StageResult
from ippo_trainer.contract.stages import BY_NAME, COLLECT, CYCLE, EVALUATE, FIT_Q, IMPROVE, WARM_START, StageName

from ippo_operator.api.resource import MAX_COLLECTIONS, RunSpec
from ippo_operator.api.status import (
    MAX_ITERATION_WARNINGS,
    BestPolicy,
    Budgets,
    CanaryStatus,
    DeployedPolicy,
    IterationStatus,
    RunStatus,
    StageStatus,
)
from ippo_operator.plan import approval
from ippo_operator.plan.stage_specs import collections_of, current_iteration
from ippo_operator.plan.types import ObservedJob

MAX_HISTORY_BYTES = 40 * 1024
"""Of the iterations in a status, which has 64 KB in all."""
METRIC_NAMES = {"Value": "value", "Success": "success"}


def find_result(status: RunStatus, job: ObservedJob) -> StageResult | str:
    """The job's result, or a sentence that says why there is none that may be trusted."""
    stage = status.stage
    active = status.active
    if stage is None or active is None:
        raise ValueError("no attempt is active")
    expected = (stage, status.iteration, active.input_digest)
    ours = [r for r in job.results if (r.stage, r.iteration, r.input_digest) == expected]
    if not ours:
        problem = "a result of another stage or of other inputs" if job.results else "no result that can be read"
        return f"{job.name} ended well but left {problem}"
    whole = [result for result in ours if BY_NAME[stage].artifact in result.artifacts]
    if not whole:
        return f"{job.name} ended well but none of its results names the {BY_NAME[stage].artifact} artifact"
    result = whole[0]
    try:
        check_key(result.artifacts[BY_NAME[stage].artifact].key)
    except BadSpecError as error:
        return f"{job.name} ended well but its {error}"
    if stage == FIT_Q and result.informative is None:
        return f"{job.name} ended well but does not say whether Q is informative"
    if stage == EVALUATE and result.decision is None:
        return f"{job.name} ended well but without a decision"
    return result


def record(status: RunStatus, spec: RunSpec, result: StageResult, now: datetime) -> RunStatus:
    """The status after the active attempt succeeded."""
    stage, active = status.stage, status.active
    if stage is None or active is None:
        raise ValueError("no attempt is active")
    artifact = result.artifacts[BY_NAME[stage].artifact]
    iteration = current_iteration(status) or IterationStatus(iteration=status.iteration, started_at=active.created_at)
    done = StageStatus(
        stage=stage, attempts=status.attempt, started_at=active.created_at, finished_at=now, artifact=artifact
    )
    # An iteration may collect and fit several times: the last time counts.
    stages = (*(row for row in iteration.stages if row.stage != stage), done)
    others = (text for text in iteration.warnings if not text.startswith(f"{stage}: "))
    warnings = (*others, *(f"{stage}: {text}" for text in result.warnings or ()))
    update = {"stages": stages, "warnings": warnings[:MAX_ITERATION_WARNINGS]}
    iteration = iteration.model_copy(update=update)
    status = _with_iteration(status, iteration, spec.history_limit).model_copy(update={"active": None})
    if stage == WARM_START:
        status = status.model_copy(
            update={"start_policy": artifact, "policy": DeployedPolicy(iteration=0, artifact=artifact)}
        )
        return _close(status, spec, now)
    if stage == FIT_Q and _goes_on(result):
        status = status.model_copy(update={"previous_q": artifact})
    if stage == EVALUATE:
        decided = _decide(status, spec, result)
        return decided if approval.awaited(decided) is not None else _close(decided, spec, now)
    if not _goes_on(result):
        return status
    following = CYCLE[CYCLE.index(stage) + 1]
    return _next_stage(status, following, _attempts(iteration, following))


def may_collect_more(status: RunStatus, spec: RunSpec) -> bool:
    """Whether an iteration whose Q is uninformative collects once more. A log has no more."""
    if spec.collect.history_of(status.iteration) is not None:
        return False
    limit = spec.fit_q.max_collections or MAX_COLLECTIONS
    return spec.fit_q.on_uninformative == "CollectMore" and collections_of(status) < limit


def collect_more(status: RunStatus, spec: RunSpec) -> RunStatus:
    """The status after that was decided: attempts go on counting, since their numbers are in the jobs' names.

    The failure is answered, and it would be taken for one of the next fit, which has not begun.
    """
    iteration = current_iteration(status)
    if iteration is None:
        raise ValueError(f"iteration {status.iteration} has no record")
    iteration = iteration.model_copy(update={"collections": collections_of(status) + 1})
    status = _with_iteration(status, iteration, spec.history_limit).model_copy(update={"last_failure": None})
    return _next_stage(status, COLLECT, _attempts(iteration, COLLECT))


def _attempts(iteration: IterationStatus, stage: StageName) -> int:
    """Attempts that a stage of this iteration has had."""
    return next((done.attempts for done in iteration.stages if done.stage == stage), 0)


def _goes_on(result: StageResult) -> bool:
    """A run whose Q is uninformative stays where it is; the planner ends it there."""
    return result.informative is not False


def _next_stage(status: RunStatus, stage: StageName | None, attempts: int = 0) -> RunStatus:
    return status.model_copy(update={"stage": stage, "attempt": attempts, "budgets": Budgets()})


def _decide(status: RunStatus, spec: RunSpec, result: StageResult) -> RunStatus:
    iteration = current_iteration(status)
    candidate = iteration.artifact(IMPROVE) if iteration is not None else None
    if iteration is None or candidate is None or result.decision is None:
        raise ValueError(f"iteration {status.iteration} has nothing to decide on")
    # Before an A/B test the gate is a forecast: what it cannot tell, outcomes will.
    passes = {"Promote", "Inconclusive"} if approval.tested(spec) else {"Promote"}
    passed = result.decision.outcome in passes
    waits = passed and (approval.tested(spec) or approval.by_hand(spec))
    promoted = None if waits else passed
    # Six digits keep the status small; the evaluation artifact has them all.
    metrics = {name: float(f"{value:.6g}") for name, value in result.metrics.items()}
    iteration = iteration.model_copy(update={"decision": result.decision, "promoted": promoted, "metrics": metrics})
    status = _with_iteration(status, iteration, spec.history_limit)
    return status if promoted is None else _settled(status, spec, iteration, candidate)


def settle(status: RunStatus, spec: RunSpec, promoted: bool, now: datetime) -> RunStatus:
    """The status after a human or an A/B test answered for the candidate that waits."""
    iteration = approval.awaited(status)
    candidate = iteration.artifact(IMPROVE) if iteration is not None else None
    if iteration is None or candidate is None:
        raise ValueError("no candidate waits")
    iteration = iteration.model_copy(update={"promoted": promoted})
    status = _with_iteration(status, iteration, spec.history_limit)
    return _close(_settled(status, spec, iteration, candidate), spec, now)


def with_canary(status: RunStatus, spec: RunSpec, iteration: IterationStatus, canary: CanaryStatus | None) -> RunStatus:
    """The status with what is known of the A/B test of an iteration's candidate."""
    return _with_iteration(status, iteration.model_copy(update={"canary": canary}), spec.history_limit)


def _settled(status: RunStatus, spec: RunSpec, iteration: IterationStatus, candidate: ArtifactRef) -> RunStatus:
    """Counts the iteration; a promoted candidate is the policy from now on."""
    changes: dict[str, object] = {
        "completed_iterations": status.completed_iterations + 1,
        "consecutive_rejections": 0 if iteration.promoted else status.consecutive_rejections + 1,
    }
    changes["best"] = best = _measured_again(status, spec, iteration.metrics)
    if iteration.promoted:
        changes["policy"] = DeployedPolicy(iteration=status.iteration, artifact=candidate)
        changes["best"] = _best(best, status.iteration, spec, candidate, iteration.metrics)
    return status.model_copy(update=changes)


def _measured_again(status: RunStatus, spec: RunSpec, metrics: dict[str, float]) -> BestPolicy | None:
    """The best policy with what this iteration measured of it, where it is the current one.

    The customers of the iteration that promoted it flatter it; these chose nothing, and are the candidate's too.
    """
    best, estimate = status.best, metrics.get(f"{METRIC_NAMES[spec.evaluate.gate.metric]}Current")
    if best is None or estimate is None or status.policy is None or best.artifact != status.policy.artifact:
        return best
    return best.model_copy(update={"estimate": estimate})


def _best(
    best: BestPolicy | None, iteration: int, spec: RunSpec, candidate: ArtifactRef, metrics: dict[str, float]
) -> BestPolicy | None:
    metric = spec.evaluate.gate.metric
    estimate = metrics.get(METRIC_NAMES[metric])
    if estimate is None or (best is not None and best.estimate >= estimate):
        return best
    return BestPolicy(iteration=iteration, artifact=candidate, metric=metric, estimate=estimate)


def _close(status: RunStatus, spec: RunSpec, now: datetime) -> RunStatus:
    """Ends the iteration: it records which policy is deployed after it."""
    iteration = current_iteration(status)
    if iteration is None or status.policy is None:
        raise ValueError(f"iteration {status.iteration} has no record")
    closed = iteration.model_copy(update={"finished_at": now, "policy": status.policy.artifact.digest})
    return _next_stage(_with_iteration(status, closed, spec.history_limit), None)


def _with_iteration(status: RunStatus, iteration: IterationStatus, limit: int) -> RunStatus:
    others = [row for row in status.iterations if row.iteration != iteration.iteration]
    return status.model_copy(update={"iterations": _within_bounds((*others, iteration)[-limit:])})


def _within_bounds(rows: tuple[IterationStatus, ...]) -> tuple[IterationStatus, ...]:
    """The latest rows that the status has room for; only rows that are full of figures are ever dropped early."""
    room, count = MAX_HISTORY_BYTES, len(rows)
    for number, row in enumerate(reversed(rows)):
        room -= len(row.model_dump_json(by_alias=True, exclude_none=True).encode())
        if room < 0:
            count = max(1, number)
            break
    return rows[len(rows) - count :]
