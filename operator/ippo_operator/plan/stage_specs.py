"""The frozen inputs of an attempt, wired from what the status recorded."""

from ippo_trainer.contract import params
from ippo_trainer.contract.spec import ArtifactRef, S3Location, StageName, StageSpec, StoreLocation

from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.status import IterationStatus, RunStatus
from ippo_operator.plan.folders import folder
from ippo_operator.plan.types import JobIntent

STAGES: tuple[StageName, ...] = ("collect", "fit-q", "improve", "evaluate")
PRODUCES: dict[StageName, str] = {
    "warm-start": "policy",
    "collect": "data",
    "fit-q": "q",
    "improve": "policy",
    "evaluate": "evaluation",
}
"""The artifact that a stage's result must name."""


def job_intent(run: IterativePPORun, status: RunStatus, name: str, store: StoreLocation) -> JobIntent:
    """The job of the attempt that the status points at."""
    stage = status.stage
    if stage is None:
        raise ValueError("no stage is due")
    spec = run.spec
    shards = spec.collect.simulate.parallelism if stage == "collect" else None
    collect = spec.collect.simulate.model_dump(exclude={"environment"})
    collections = collections_of(status)
    stage_spec = StageSpec(
        stage=stage,
        run=run.metadata.name,
        iteration=status.iteration,
        attempt=status.attempt,
        collection=collections if stage in {"collect", "fit-q"} and collections > 1 else None,
        seed=spec.seed,  # a stage derives its own streams from it
        threads=max(1, spec.threads // (shards or 1)),
        device=spec.device,
        discount=spec.discount,
        store=store,
        inputs=_inputs(run, status, stage),
        environment=spec.collect.simulate.environment,
        policy=spec.policy,
        warm_start=spec.warm_start if stage == "warm-start" else None,
        # improve and evaluate sample as the policy is deployed, at collect's temperature
        collect=params.Collect(**collect) if stage in {"collect", "improve", "evaluate"} else None,
        fit_q=params.FitQ(**spec.fit_q.model_dump(include=set(params.FitQ.model_fields))) if stage == "fit-q" else None,
        improve=spec.improve if stage == "improve" else None,
        evaluate=spec.evaluate if stage == "evaluate" else None,
    )
    return JobIntent(name, stage_spec, shards)


def _inputs(run: IterativePPORun, status: RunStatus, stage: StageName) -> dict[str, ArtifactRef]:
    if stage == "warm-start":
        return {}
    if status.policy is None or status.start_policy is None:
        raise ValueError(f"{stage} before the warm start")
    inputs = {"policy": status.policy.artifact}
    if stage == "collect":
        inputs["explorer"] = status.start_policy
    if stage != "collect" or collections_of(status) > 1:
        inputs["data"] = _made(status, "collect")
    if stage == "fit-q" and run.spec.fit_q.init_from == "PreviousQ" and status.previous_q is not None:
        inputs["previousQ"] = status.previous_q
    if stage in {"improve", "evaluate"}:
        inputs["q"] = _made(status, "fit-q")
    if stage == "evaluate":
        inputs["candidate"] = _made(status, "improve")
    return inputs


def current_iteration(status: RunStatus) -> IterationStatus | None:
    """The record of the iteration that runs, once one of its stages was started."""
    last = status.iterations[-1] if status.iterations else None
    return last if last is not None and last.iteration == status.iteration else None


def collections_of(status: RunStatus) -> int:
    """How often the iteration that runs collected, or is about to."""
    record = current_iteration(status)
    return (record.collections if record is not None else None) or 1


def _made(status: RunStatus, stage: StageName) -> ArtifactRef:
    record = current_iteration(status)
    artifact = record.artifact(stage) if record is not None else None
    if artifact is None:
        raise ValueError(f"iteration {status.iteration} has no result of {stage}")
    return artifact


def s3_location(run: IterativePPORun, s3: S3Location) -> S3Location:
    """The run's own folder below the prefix. Which credentials open it is no stage's business."""
    prefix = "/".join(filter(None, [s3.prefix.strip("/"), folder(run)]))
    given = s3.model_dump(include=set(S3Location.model_fields))
    return S3Location(**given | {"prefix": prefix})
