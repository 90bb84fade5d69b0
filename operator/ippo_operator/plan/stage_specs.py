"""The frozen inputs of an attempt, wired from what the status recorded."""

from itertools import zip_longest
from typing import Any

from ippo_trainer.contract import params
from ippo_trainer.contract.params import Model
from ippo_trainer.contract.spec import ArtifactRef, S3Location, StageSpec, StoreLocation
from ippo_trainer.contract.stages import (
    BY_NAME,
    COLLECT,
    CYCLE,
    EARLIER_DATA,
    HISTORY,
    IMPROVE,
    LOGGED,
    STAGES,
    StageName,
)

from ippo_operator.api.resource import IterativePPORun, RunSpec
from ippo_operator.api.status import IterationStatus, RunStatus
from ippo_operator.plan.folders import folder
from ippo_operator.plan.types import JobIntent

_MAKERS: dict[str, StageName] = {BY_NAME[stage].artifact: stage for stage in CYCLE} | {"candidate": IMPROVE}
"""Inputs that come of a stage of the same iteration."""


def job_intent(run: IterativePPORun, status: RunStatus, name: str, store: StoreLocation) -> JobIntent:
    """The job of the attempt that the status points at."""
    stage = status.stage
    if stage is None:
        raise ValueError("no stage is due")
    spec, collections = run.spec, collections_of(status)
    simulate, history = spec.collect.simulate, spec.collect.history_of(status.iteration)
    reads = stage == COLLECT and history is not None  # one process, and no customers
    shards = simulate.parallelism if stage == COLLECT and simulate is not None and not reads else None
    stage_spec = StageSpec(
        stage=stage,
        run=run.metadata.name,
        iteration=status.iteration,
        attempt=status.attempt,
        collection=collections if BY_NAME[stage].repeats and collections > 1 else None,
        seed=spec.seed,  # a stage derives its own streams from it
        threads=max(1, spec.threads // (shards or 1)),
        device=spec.device,
        discount=spec.discount,
        store=store,
        inputs=_inputs(run, status, stage),
        environment=simulate.environment if simulate is not None and not reads else None,
        policy=spec.policy,
        until=status.live.until if stage == COLLECT and status.live is not None and not reads else None,
        **settings_of(spec, stage, history),
    )
    return JobIntent(name, stage_spec, shards)


def settings_of(spec: RunSpec, stage: StageName, history: params.LogHistory | None = None) -> dict[str, Any]:
    """The sections that the stage reads, without what only the operator reads in them."""
    sections = {each.section: getattr(spec, each.section) for each in STAGES}
    reads = stage == COLLECT and history is not None
    sections |= {BY_NAME[COLLECT].section: None if reads else spec.collect.simulate, HISTORY: history}
    sections[LOGGED] = None if reads else spec.collect.logged
    return {name: _of_contract(sections[name]) for name in BY_NAME[stage].settings}


def _of_contract(section: Model | None) -> Model | None:
    """The section as the contract has it: a run's may have fields of its own."""
    if section is None:
        return None
    bases = (base for base in type(section).__mro__ if issubclass(base, Model))
    kind: type[Model] = next(base for base in bases if base.__module__ == params.__name__)
    return kind(**section.model_dump(include=set(kind.model_fields)))


def _inputs(run: IterativePPORun, status: RunStatus, stage: StageName) -> dict[str, ArtifactRef]:
    record = current_iteration(status)
    before = {
        "policy": status.policy.artifact if status.policy is not None else None,
        "explorer": status.start_policy,
        "previousQ": status.previous_q if run.spec.fit_q.init_from == "PreviousQ" else None,
        **dict(zip_longest(EARLIER_DATA, _earlier_data(run, status))),
    }
    inputs, more = {}, BY_NAME[stage].unsimulated if run.spec.collect.simulate is None else ()
    for name in (*BY_NAME[stage].inputs, *more):
        artifact = before[name] if name in before else record.artifact(_MAKERS[name]) if record is not None else None
        if artifact is not None:
            inputs[name] = artifact
        elif name not in BY_NAME[stage].optional:
            raise ValueError(f"iteration {status.iteration} cannot {stage} without {name}")
    return inputs


def _earlier_data(run: IterativePPORun, status: RunStatus) -> list[ArtifactRef]:
    """What the iterations before this one collected, the last one first, as many as fit-q reads."""
    before = (row.artifact(COLLECT) for row in reversed(status.iterations) if row.iteration < status.iteration)
    return [artifact for artifact in before if artifact is not None][: run.spec.fit_q.earlier()]


def current_iteration(status: RunStatus) -> IterationStatus | None:
    """The record of the iteration that runs, once one of its stages was started."""
    last = status.iterations[-1] if status.iterations else None
    return last if last is not None and last.iteration == status.iteration else None


def collections_of(status: RunStatus) -> int:
    """How often the iteration that runs collected, or is about to."""
    record = current_iteration(status)
    return (record.collections if record is not None else None) or 1


def s3_location(run: IterativePPORun, s3: S3Location) -> S3Location:
    """The run's own folder below the prefix. Which credentials open it is no stage's business."""
    prefix = "/".join(filter(None, [s3.prefix.strip("/"), folder(run)]))
    location = s3.model_dump(include=set(S3Location.model_fields))
    return S3Location(**location | {"prefix": prefix})
