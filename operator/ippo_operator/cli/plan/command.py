"""`ippo plan`: a table of bytes by stage and kind, and of seconds."""

import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ippo_trainer.contract.digests import digest_of
from ippo_trainer.contract.spec import ArtifactRef, StageSpec, StoreLocation
from ippo_trainer.contract.stages import COLLECT, STAGES, Stage

from ippo_operator.api.fitting import in_words
from ippo_operator.api.quantities import amount
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.cli.errors import CommandError
from ippo_operator.cli.manifests import read_manifest
from ippo_operator.cli.plan import DEVICES
from ippo_operator.cli.trainer import check_trainer, trainer_errors
from ippo_operator.manifests.overrides import for_stage
from ippo_operator.plan import approval
from ippo_operator.plan.stage_specs import settings_of

if TYPE_CHECKING:
    from ippo_trainer.models.sizing import StageMemory

_GIB = 1 << 30


@dataclass(frozen=True)
class StagePlan:
    """What a stage takes."""

    memory: "StageMemory"
    seconds: float


def command(arguments: Namespace) -> int:
    """Prints the table, and whether a GPU is large enough."""
    _check(arguments)
    run = read_manifest(arguments.file, arguments.name)
    check_trainer()
    with trainer_errors():
        rows = rows_of(run, arguments)
    if arguments.json:
        print(json.dumps({name: _content(row) for name, row in rows.items()}, indent=2))
        return 0
    print("\n".join(_lines(rows)))
    print(f"note: {_basis(run, arguments)}", file=sys.stderr)
    if in_words(run.spec):
        print(f"note: {in_words(run.spec)}", file=sys.stderr)
    for note in _live(run):
        print(f"note: {note}", file=sys.stderr)
    for note in _too_small(run, rows, arguments.gpu):
        print(f"note: {note}", file=sys.stderr)
    return 0


def _check(arguments: Namespace) -> None:
    """Raises CommandError for a device that does not go with the memory."""
    on_cpu = arguments.device == DEVICES[0]
    if arguments.device is not None and on_cpu != (arguments.gpu is None):
        remedy = "has no --gpu" if on_cpu else "needs --gpu: its memory in GiB"
        raise CommandError(f"--device {arguments.device} {remedy}")


def _content(row: StagePlan) -> dict[str, float]:
    return asdict(row.memory) | {"together": row.memory.together, "seconds": round(row.seconds, 1)}


def _basis(run: IterativePPORun, arguments: Namespace) -> str:
    """What the seconds were made of."""
    from ippo_trainer.models.timing import DEVICES

    device = DEVICES[device_of(arguments)]
    tokens = arguments.tokens or run.spec.policy.max_prompt_tokens
    return (
        f"seconds are an estimate, operations over the rate of {device.words} ({device.source}), for conversations of "
        f"{arguments.turns} turns and {tokens} tokens; --turns and --tokens say how long yours are"
    )


def device_of(arguments: Namespace) -> str:
    """Whose seconds."""
    return arguments.device or (DEVICES[0] if arguments.gpu is None else DEVICES[1])


def _too_small(run: IterativePPORun, rows: dict[str, StagePlan], gpu: int | None) -> Iterator[str]:
    """Stages that have not the memory that they take: of a GPU, or else of their pods."""
    for stage in STAGES:
        if stage.name not in rows:
            continue
        needed = rows[stage.name].memory.together
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


def rows_of(run: IterativePPORun, arguments: Namespace) -> dict[str, StagePlan]:
    """What each stage of a run that loads a model takes, by name.

    Args:
        run: the manifest.
        arguments: of the command.

    Raises:
        StageError: a base or an adapter that cannot be used.
    """
    from ippo_trainer.models.sizing import size_of, stage_memory
    from ippo_trainer.models.timing import DEVICES as RATES
    from ippo_trainer.models.timing import Conversations, stage_seconds

    simulated = run.spec.collect.simulate
    config = Path(arguments.config) if arguments.config else None
    size = size_of(run.spec.policy.base, config, run.spec.policy.adapter)
    said = Conversations(
        arguments.turns,
        arguments.tokens,
        arguments.conversations,
        None if simulated is None else simulated.conversations,
    )
    rate, gpu = RATES[device_of(arguments)], arguments.gpu
    loading = [stage for stage in STAGES if stage.name != COLLECT or run.spec.collect.logged is None]
    specs = {stage.name: _spec(run, stage) for stage in loading}
    return {
        name: StagePlan(stage_memory(spec, size, gpu, said.turns), stage_seconds(spec, size, rate, gpu, said))
        for name, spec in specs.items()
    }


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


def _lines(rows: dict[str, StagePlan]) -> Iterator[str]:
    used = [name for name in ("solver", "engine") if any(getattr(row.memory, name) for row in rows.values())]
    names = ("weights", "trained", "activations", "cache", *used, "process", "together")
    yield f"{'GiB':12}" + "".join(f"{name:>12}" for name in names) + f"{'seconds':>12}"
    for stage, row in rows.items():
        bytes_ = "".join(f"{getattr(row.memory, name) / _GIB:12.2f}" for name in names)
        yield f"{stage:12}{bytes_}{row.seconds:12.0f}"
