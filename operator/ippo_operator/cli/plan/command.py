"""`ippo plan`: a table of bytes by stage and kind."""

import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ippo_trainer.contract.digests import digest_of
from ippo_trainer.contract.spec import ArtifactRef, StageSpec, StoreLocation
from ippo_trainer.contract.stages import COLLECT, STAGES, Stage

from ippo_operator.api.fitting import in_words
from ippo_operator.api.quantities import amount
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.cli.manifests import read_manifest
from ippo_operator.cli.trainer import check_trainer, trainer_errors
from ippo_operator.manifests.overrides import for_stage
from ippo_operator.plan import approval
from ippo_operator.plan.stage_specs import settings_of

if TYPE_CHECKING:
    from ippo_trainer.models.sizing import StageMemory

_GIB = 1 << 30


def command(arguments: Namespace) -> int:
    """Prints the table, and whether a GPU is large enough."""
    run = read_manifest(arguments.file, arguments.name)
    check_trainer()
    with trainer_errors():
        rows = memory_of(run, arguments.gpu, Path(arguments.config) if arguments.config else None)
    if arguments.json:
        print(json.dumps({name: asdict(row) | {"together": row.together} for name, row in rows.items()}, indent=2))
        return 0
    print("\n".join(_lines(rows)))
    if in_words(run.spec):
        print(f"note: {in_words(run.spec)}", file=sys.stderr)
    for note in _live(run):
        print(f"note: {note}", file=sys.stderr)
    for note in _too_small(run, rows, arguments.gpu):
        print(f"note: {note}", file=sys.stderr)
    return 0


def _too_small(run: IterativePPORun, rows: dict[str, "StageMemory"], gpu: int | None) -> Iterator[str]:
    """Stages that have not the memory that they take: of a GPU, or else of their pods."""
    for stage in STAGES:
        if stage.name not in rows:
            continue
        needed = rows[stage.name].together
        if gpu is not None:
            if needed > gpu:
                yield f"{stage.name} does not fit into {gpu / _GIB:.0f} GiB"
            continue
        limit = for_stage(run.spec.pods, stage.name).resources.limits.get("memory")
        if limit is not None and needed > (amount(limit) or 0):
            yield (
                f"{stage.name} takes {needed / _GIB:.2f} GiB, and spec.pods limits its memory to {limit}: raise "
                f"spec.pods.{stage.field}.resources.limits.memory, or the stage is killed"
            )


def memory_of(run: IterativePPORun, gpu: int | None, config: Path | None) -> dict[str, "StageMemory"]:
    """What each stage of a run that loads a model takes, by name.

    Args:
        run: the manifest.
        gpu: bytes of a GPU's memory; None for a CPU.
        config: folder of the base's config, where the base is elsewhere.

    Raises:
        StageError: a base or an adapter that cannot be used.
    """
    from ippo_trainer.models.sizing import size_of, stage_memory

    size = size_of(run.spec.policy.base, config, run.spec.policy.adapter)
    loading = [stage for stage in STAGES if stage.name != COLLECT or run.spec.collect.logged is None]
    return {stage.name: stage_memory(_spec(run, stage), size, gpu) for stage in loading}


def _live(run: IterativePPORun) -> Iterator[str]:
    """What the table does not say of a run of live conversations."""
    if run.spec.collect.logged is not None:
        yield "collect reads what the gateway logged: no model is loaded"
    if approval.tested(run.spec):
        yield "in an A/B test the candidate has servers of its own, besides those of the active policy"


def _spec(run: IterativePPORun, stage: Stage) -> StageSpec:
    """Of the stage in a later iteration, when all of its inputs are there and differ."""
    spec = run.spec
    return StageSpec(
        stage=stage.name,
        run=run.metadata.name,
        iteration=2,
        seed=spec.seed,
        threads=spec.threads,
        device=spec.device,
        discount=spec.discount,
        store=StoreLocation(directory="/"),
        inputs={name: ArtifactRef(key=name, digest=digest_of(name)) for name in stage.inputs},
        environment=spec.collect.simulate.environment if spec.collect.simulate else None,
        policy=spec.policy,
        **settings_of(spec, stage.name),
    )


def _lines(rows: dict[str, "StageMemory"]) -> Iterator[str]:
    used = ("engine",) if any(row.engine for row in rows.values()) else ()
    names = ("weights", "trained", "activations", "cache", *used, "process", "together")
    yield f"{'GiB':12}" + "".join(f"{name:>12}" for name in names)
    for stage, row in rows.items():
        yield f"{stage:12}" + "".join(f"{getattr(row, name) / _GIB:12.2f}" for name in names)
