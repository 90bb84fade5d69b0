"""Attempts of stages by what a status records, and the one that a command line means."""

import sys
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from ippo_trainer.contract.lines import printable
from ippo_trainer.contract.stages import NAMES

from ippo_operator.api.status import RunStatus
from ippo_operator.cli.errors import TRY_AGAIN, CommandError
from ippo_operator.cli.run_view import RunView


@dataclass(frozen=True, order=True)
class Attempt:
    """Of a stage; in the order of the run."""

    iteration: int
    place: int
    """Of the stage in its iteration."""
    attempt: int

    @classmethod
    def of(cls, iteration: int, stage: str, attempt: int) -> Self:
        """By the stage's name."""
        return cls(iteration, NAMES.index(stage), attempt)

    @property
    def stage(self) -> str:
        """Its name."""
        return NAMES[self.place]

    def __str__(self) -> str:
        return f"{self.stage} of iteration {self.iteration}, attempt {self.attempt}"


def check(arguments: Namespace) -> None:
    """Raises CommandError for options of `ippo logs` that exclude each other."""
    narrowed = any(part is not None for part in (arguments.stage, arguments.iteration, arguments.attempt))
    if arguments.previous and narrowed:
        raise CommandError("--previous is the attempt that failed last; leave out --stage, --iteration and --attempt")
    if arguments.follow and (arguments.previous or narrowed):
        raise CommandError("--follow goes with the run; leave out --previous, --stage, --iteration and --attempt")


def note(text: str) -> None:
    """Says something about a log on standard error: standard output is the log alone."""
    print(f"--- {printable(text)}", file=sys.stderr, flush=True)


def select(run: RunView, others: Iterable[Attempt], arguments: Namespace) -> Attempt:
    """The attempt that the command line means.

    Args:
        run: whose attempts they are.
        others: attempts besides those of the status: of pods, or of a folder.
        arguments: of `ippo logs`.

    Raises:
        CommandError: there is no such attempt.
    """
    if arguments.previous:
        failure = run.status.last_failure
        if failure is None:
            raise CommandError(f"no attempt of {run.argument} has failed")
        return Attempt.of(failure.iteration, failure.stage, failure.attempt)
    if arguments.stage is None and arguments.iteration is None and arguments.attempt is None:
        return latest(run)
    fitting = [
        one
        for one in {*others, *recorded(run.status)}
        if arguments.stage in {None, one.stage}
        and arguments.iteration in {None, one.iteration}
        and arguments.attempt in {None, one.attempt}
    ]
    if not fitting:
        last = max(recorded(run.status), default=None)
        raise CommandError(f"{run.argument} has run no such stage; it is at {last or 'its beginning'}")
    return max(fitting)


def latest(run: RunView) -> Attempt:
    """The attempt that runs or ran last; CommandError before the first."""
    current = _current(run.status)
    if current is not None:
        return current
    attempts = recorded(run.status)
    if not attempts:
        raise CommandError(f"{run.argument} has run no stage yet: {run.message}", TRY_AGAIN)
    return max(attempts)


def recorded(status: RunStatus) -> set[Attempt]:
    """The attempts that completed a stage, and the current one."""
    rows = status.iterations
    attempts = {Attempt.of(row.iteration, stage.stage, stage.attempts) for row in rows for stage in row.stages}
    current = _current(status)
    return attempts if current is None else attempts | {current}


def _current(status: RunStatus) -> Attempt | None:
    if status.stage is None or status.attempt == 0:
        return None
    return Attempt.of(status.iteration, status.stage, status.attempt)
