"""Reads what a run has published so far into a RunReport. Only small JSON files are read, each verified."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.layout import (
    CALIBRATION,
    COMPARISONS,
    GROUPS,
    LEDGER,
    LOG,
    METRICS,
    TRAINING,
    TRANSCRIPTS,
    result_key,
)
from ippo_trainer.contract.personas import NO_PERSONA
from ippo_trainer.contract.spec import ArtifactRef, Decision, StageResult
from ippo_trainer.contract.stages import BY_NAME, COLLECT, CYCLE, EVALUATE, FIT_Q, IMPROVE, WARM_START, StageName
from ippo_trainer.data.counts import Ended, personas, without_personas
from ippo_trainer.evaluation.comparisons import Comparisons
from ippo_trainer.evaluation.groups import GroupValues
from ippo_trainer.report.log_sections import LogAccount
from ippo_trainer.report.model import (
    Artifact,
    CalibrationFigures,
    Cycle,
    Evaluation,
    RunReport,
    Standing,
    Training,
    Transcripts,
)
from ippo_trainer.report.tested import with_tests
from ippo_trainer.store.artifact import Manifest, read_manifest
from ippo_trainer.store.base import ObjectNotFoundError, Store
from ippo_trainer.store.parallel import WORKERS, for_each

JSON_LIMIT = 16 << 20
TRANSCRIPT_CYCLES = 3
"""Transcripts are read of the first and of this many last evaluations."""
_GROUPS = TypeAdapter(dict[str, tuple[int, int, int]])
_COUNTS = TypeAdapter(dict[str, int])
_T = TypeVar("_T", bound=BaseModel)


def gather(store: Store, manifest: dict[str, Any] | None = None, standing: dict[str, Any] | None = None) -> RunReport:
    """Walks the ledger, the stages' results and the artifacts that they name.

    What is damaged or malformed is left out and named in `RunReport.problems`; what is not there yet is None.

    Args:
        store: the run's artifact store.
        manifest: the run (`metadata`, `spec`, and `status` for its A/B tests) as JSON.
        standing: of a run that does not go on by itself, the fields of `Standing`.

    Raises:
        TryAgainError: the store does not answer.
        BadSpecError: the store refuses.
    """
    problems: list[str] = []
    ledger = _ledger(store, problems)
    cycles = _cycles(store, ledger, problems)
    settings = manifest or {}
    name = _metadata_name(settings) or "Iterative PPO"
    where = None if standing is None else Standing.model_validate(standing)
    cycles = with_tests(_with_transcripts(store, cycles, problems), settings)
    return RunReport(str(name), settings, cycles, problems, where)


def _metadata_name(settings: dict[str, Any]) -> object:
    metadata = settings.get("metadata")
    return metadata.get("name") if isinstance(metadata, dict) else None


def _ledger(store: Store, problems: list[str]) -> dict[int, dict[str, Any]]:
    try:
        lines = store.read(LEDGER, JSON_LIMIT).decode(errors="replace").splitlines()
    except ObjectNotFoundError:
        return {}
    rows: dict[int, dict[str, Any]] = {}
    for position, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows[int(row["iteration"])] = row
        except (ValueError, KeyError, TypeError):
            problems.append(f"Line {position} of {LEDGER} is damaged and left out.")
    return rows


def _cycles(store: Store, ledger: dict[int, dict[str, Any]], problems: list[str]) -> list[Cycle]:
    """Iterations in order. Stops after the ledger's last as soon as an iteration has published nothing."""
    last, cycles, start = max(ledger, default=0), [], 0
    while True:
        # In blocks of threads: a run in S3 has a dozen small objects per iteration.
        block = for_each(lambda n: _cycle(store, n, ledger.get(n, {})), range(start, start + WORKERS))
        for iteration, (cycle, unread) in enumerate(block, start):
            problems += unread
            if cycle is not None:
                cycles.append(cycle)
            elif iteration > last:
                return cycles
        start += WORKERS


def _cycle(store: Store, iteration: int, ledger: dict[str, Any]) -> tuple[Cycle | None, list[str]]:
    """One iteration and what could not be read of it; None if nothing was ever published."""
    problems: list[str] = []
    # The warm start and improve share a folder's name; only iteration 0 has the former.
    stages = (WARM_START,) if iteration == 0 else CYCLE
    results = {stage: result for stage in stages if (result := _result(store, iteration, stage, problems))}
    if not (results or ledger or problems):
        return None, problems
    reader = _Reader(store, problems)
    fit_q, evaluate = results.get(FIT_Q), results.get(EVALUATE)
    # Without a simulator there are no conversations to measure: the decision says what logged states show.
    simulated = evaluate is not None and "heldOutQLift" not in evaluate.metrics
    evaluation = reader.read(evaluate, "evaluation", METRICS, Evaluation) if simulated else None
    cycle = Cycle(
        iteration=iteration,
        artifacts=_artifacts(reader, results),
        metrics={stage: dict(result.metrics) for stage, result in results.items()},
        messages={stage: result.message for stage, result in results.items() if result.message},
        warnings=[f"{stage}: {text}" for stage, result in results.items() for text in result.warnings or ()],
        calibration=reader.read(fit_q, "q", CALIBRATION, CalibrationFigures),
        informative=fit_q.informative if fit_q else None,
        training=reader.read(results.get(IMPROVE) or results.get(WARM_START), "policy", TRAINING, Training),
        evaluation=evaluation,
        decision=(evaluate.decision if evaluate else None)
        or (evaluation.decision if evaluation else None)
        or _decision(ledger, problems),
        comparisons=None if simulated else reader.read(evaluate, "evaluation", COMPARISONS, Comparisons),
        groups=_log_groups(reader, results.get(COLLECT)),
        group_values=None if simulated else reader.read(evaluate, "evaluation", GROUPS, GroupValues),
        log=reader.read(results.get(COLLECT), BY_NAME[COLLECT].artifact, LOG, LogAccount),
        personas=_personas(reader, results.get(COLLECT)),
    )
    return cycle, problems


def _log_groups(reader: "_Reader", collect: StageResult | None) -> dict[str, tuple[int, int, int]]:
    """By group: conversations, finished ones, outcomes; nothing where the log has no groups."""
    try:
        return _GROUPS.validate_python(_collected(reader, collect).get("groups") or {})
    except ValidationError:
        return {}


def _personas(reader: "_Reader", collect: StageResult | None) -> dict[str, Ended]:
    """By persona, also the conversations of none; nothing where there are no personas."""
    try:
        counts = _COUNTS.validate_python(_collected(reader, collect).get("counts") or {})
    except ValidationError:
        return {}
    held = personas(counts)
    return {NO_PERSONA: without_personas(counts), **held} if held else {}


def _collected(reader: "_Reader", collect: StageResult | None) -> Mapping[str, Any]:
    """What the manifest of the data says beside them."""
    ref = collect.artifacts.get(BY_NAME[COLLECT].artifact) if collect else None
    manifest = reader.manifest(ref) if ref else None
    return manifest.metadata if manifest else {}


def _result(store: Store, iteration: int, stage: StageName, problems: list[str]) -> StageResult | None:
    """The result of a stage, the newest one where an iteration collected several times."""
    newest = _result_of(store, iteration, stage, None, problems)
    collection = 2
    while newest is not None and BY_NAME[stage].repeats:
        newer = _result_of(store, iteration, stage, collection, problems)
        if newer is None:
            break
        newest, collection = newer, collection + 1
    return newest


def _result_of(
    store: Store, iteration: int, stage: StageName, collection: int | None, problems: list[str]
) -> StageResult | None:
    """The result of a stage: of collect, that of the shard which joined all."""
    if stage != COLLECT:
        return _read_result(store, result_key(iteration, stage, None, collection), problems)
    shard = 0
    while (part := _read_result(store, result_key(iteration, stage, shard, collection), problems)) is not None:
        if BY_NAME[stage].artifact in part.artifacts:
            return part
        shard += 1
    return None


def _read_result(store: Store, key: str, problems: list[str]) -> StageResult | None:
    try:
        return StageResult.model_validate_json(store.read(key, JSON_LIMIT))
    except ObjectNotFoundError:
        return None
    except (BadDataError, ValidationError) as error:
        problems.append(f"{key} cannot be read ({_reason(error)}); the stage is shown as not done.")
        return None


def _artifacts(reader: "_Reader", results: dict[StageName, StageResult]) -> dict[str, Artifact]:
    artifacts: dict[str, Artifact] = {}
    for stage, result in results.items():
        ref = result.artifacts.get(BY_NAME[stage].artifact)
        if ref is not None:
            manifest = reader.manifest(ref)
            artifacts[stage] = Artifact(stage, ref.key, ref.digest, dict(manifest.inputs) if manifest else {})
    return artifacts


def _decision(ledger: dict[str, Any], problems: list[str]) -> Decision | None:
    if not ledger.get("decision"):
        return None
    try:
        return Decision.model_validate(ledger["decision"])
    except ValidationError as error:
        problems.append(
            f"The decision of cycle {ledger.get('iteration')} in {LEDGER} cannot be read ({_reason(error)})."
        )
        return None


def _with_transcripts(store: Store, cycles: list[Cycle], problems: list[str]) -> list[Cycle]:
    """Adds transcripts to the first and the last evaluated cycles: the others' are never shown."""
    evaluated = [cycle.iteration for cycle in cycles if cycle.evaluation is not None]
    iterations = {*evaluated[:1], *evaluated[-TRANSCRIPT_CYCLES:]}
    reader = _Reader(store, problems)
    filled = []
    for cycle in cycles:
        if cycle.iteration in iterations:
            artifact = cycle.artifacts[EVALUATE]
            ref = ArtifactRef(key=artifact.key, digest=artifact.digest)
            cycle = dataclasses.replace(cycle, transcripts=reader.file(ref, TRANSCRIPTS, Transcripts))
        filled.append(cycle)
    return filled


class _Reader:
    """Reads JSON files of artifacts and verifies them; notes what is wrong instead of raising."""

    def __init__(self, store: Store, problems: list[str]) -> None:
        self._store, self._problems = store, problems
        self._manifests: dict[str, Manifest | None] = {}

    def read(self, result: StageResult | None, name: str, path: str, model: type[_T]) -> _T | None:
        ref = result.artifacts.get(name) if result else None
        return self.file(ref, path, model) if ref else None

    def manifest(self, ref: ArtifactRef) -> Manifest | None:
        if ref.digest not in self._manifests:
            try:
                self._manifests[ref.digest] = read_manifest(self._store, ref)
            except BadDataError as error:
                self._problems.append(f"{error.message}; what it holds is not shown.")
                self._manifests[ref.digest] = None
        return self._manifests[ref.digest]

    def file(self, ref: ArtifactRef, path: str, model: type[_T]) -> _T | None:
        """A JSON file of an artifact; None if the artifact has no such file, or it is damaged (noted)."""
        manifest = self.manifest(ref)
        entry = next((entry for entry in manifest.files if entry.path == path), None) if manifest else None
        if entry is None:
            return None
        key = f"{ref.key}/{path}"
        try:
            body = self._store.read(key, JSON_LIMIT)
            if hashlib.sha256(body).hexdigest() != entry.sha256:
                raise BadDataError(f"{key} was altered: its SHA-256 differs from the manifest's")
            return model.model_validate_json(body)
        except (BadDataError, ValidationError) as error:
            self._problems.append(f"{key} cannot be used ({_reason(error)}); what it holds is not shown.")
            return None


def _reason(error: Exception) -> str:
    """One line that names what is wrong."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
    return error.message if isinstance(error, BadDataError) else str(error)
