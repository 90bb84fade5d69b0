"""Runs a training as a stage: resumes it, shows progress, and saves it now and then and when the stage is stopped."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from ippo_trainer.stages.runtime import StageContext
from ippo_trainer.training import checkpoint
from ippo_trainer.training.cadence import Cadence
from ippo_trainer.training.distributed import ALONE, Ranks
from ippo_trainer.training.loop import Loop
from ippo_trainer.training.progress import ProgressBar
from ippo_trainer.training.replicas import processes_for, replicated


def train(ctx: StageContext, loop: Loop, description: str, ranks: Ranks = ALONE) -> None:
    """Goes on from the stage's checkpoint, if there is one, and trains to the end; all ranks together.

    Raises:
        StoppedError: told to stop; a checkpoint is saved.
    """
    _resume(ctx, loop, ranks)
    cadence = Cadence()
    with _progress_bar(ctx, loop, description, ranks) as bar:

        def after_step() -> None:
            bar.update(loop.steps - bar.count, **loop.figures())
            _agree_to_stop(ctx, ranks)
            if ctx.stop.is_set() or ranks.agreed(cadence.due()):
                with cadence.saving():
                    _save(ctx, loop, ranks)
            ctx.check_stop()

        loop.run(after_step)


def stop_together(ctx: StageContext, ranks: Ranks) -> None:
    """Raises StoppedError in all processes if one was told to stop. For work whose checkpoint is there already."""
    _agree_to_stop(ctx, ranks)
    ctx.check_stop()


def _agree_to_stop(ctx: StageContext, ranks: Ranks) -> None:
    if ranks.any(ctx.stop.is_set()):
        ctx.stop.signal = ctx.stop.signal or "the stop of another process"


@contextmanager
def several(ctx: StageContext, model: Any) -> Iterator[Ranks]:
    """What is inside is done by as many processes as the stage has threads, where the model is too small for threads.

    They stop together, between two updates: one alone would leave the others waiting. What they all read has to be
    downloaded before.
    """
    processes = processes_for(model, ctx.spec.threads)
    with ctx.stop.deferred() if processes > 1 else nullcontext(), replicated(processes) as ranks:
        yield ranks


def _resume(ctx: StageContext, loop: Loop, ranks: Ranks) -> None:
    directory = ctx.work / "resume"
    step = ranks.agreed(ctx.load_checkpoint(directory) if ranks.first else None)
    if step is None:
        return
    if checkpoint.load(directory, loop, ranks):
        ctx.log.info("resumed after %d updates", loop.steps)
    else:
        ctx.log.warning("the checkpoint after %d updates is of another release of the trainer: starting over", step)


def _progress_bar(ctx: StageContext, loop: Loop, description: str, ranks: Ranks) -> ProgressBar:
    """Only the first rank draws a bar."""
    if ranks.first:
        return ctx.progress(loop.total, description, "updates", initial=loop.steps)
    return ProgressBar(loop.total, description, "updates", initial=loop.steps, terminal=False)


def _save(ctx: StageContext, loop: Loop, ranks: Ranks) -> None:
    directory = ctx.work / "checkpoint"
    if ranks.first:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
    checkpoint.save(directory, loop, ranks)
    if ranks.first:
        ctx.save_checkpoint(directory, loop.steps)
