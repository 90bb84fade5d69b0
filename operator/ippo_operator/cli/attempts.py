"""Attempts of stages by what a status records, and the one that a command line means."""

from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass

from ippo_trainer.contract.stages import NAMES

from ippo_operator.api.status import RunStatus
from ippo_operator.cli.errors import TRY_AGAIN, CommandError


@dataclass(frozen=True, order=True)
class Attempt:
    """Of a stage; in the order of the run."""

    iteration: int
    place: int
    """Of the stage in its iteration."""
    attempt: int

    @property
    def stage(self) -> str:
        """Its name."""
        return NAMES[self.place]

    def __str__(self) -> str:
        return f"{self.stage} of iteration {self.iteration}, attempt {self.attempt}"


def check(arguments: Namespace) -> None:
    """Raises CommandError for options of `ippo logs` that exclude each other."""
    chosen = any(part is not None for part in (arguments.stage, arguments.iteration, arguments.attempt))
    if arguments.previous and chosen:
        raise CommandError("--previous is the attempt that failed last; leave out --stage, --iteration and --attempt")
    if arguments.follow and (arguments.previous or chosen):
        raise CommandError("--follow goes with the run; leave out --previous, --stage, --iteration and --attempt")


def wanted(status: RunStatus, others: Iterable[Attempt], arguments: Namespace, message: str) -> Attempt:
    """The attempt that the command line means.

    Args:
        status: of the run.
        others: attempts that are known besides those of the status: of pods, or of a folder.
        arguments: of `ippo logs`.
        message: why the run is where it is.

    Raises:
        CommandError: there is no such attempt.
    """
    name = arguments.run
    if arguments.previous:
        failure = status.last_failure
        if failure is None:
            raise CommandError(f"no attempt of {name} has failed")
        return Attempt(failure.iteration, NAMES.index(failure.stage), failure.attempt)
    if arguments.stage is None and arguments.iteration is None and arguments.attempt is None:
        return latest(status, name, message)
    fitting = [
        one
        for one in {*others, *recorded(status)}
        if arguments.stage in {None, one.stage}
        and arguments.iteration in {None, one.iteration}
        and arguments.attempt in {None, one.attempt}
    ]
    if not fitting:
        at = max(recorded(status), default=None)
        raise CommandError(f"{name} has run no such stage; it is at {at or 'its beginning'}")
    return max(fitting)


def latest(status: RunStatus, name: str, message: str) -> Attempt:
    """The attempt that runs or ran last; CommandError before the first."""
    if status.stage is not None and status.attempt > 0:
        return Attempt(status.iteration, NAMES.index(status.stage), status.attempt)
    attempts = recorded(status)
    if not attempts:
        raise CommandError(f"{name} has run no stage yet: {message}", TRY_AGAIN)
    return max(attempts)


def recorded(status: RunStatus) -> set[Attempt]:
    """The attempts that completed a stage, and the current one."""
    done = {
        Attempt(row.iteration, NAMES.index(stage.stage), stage.attempts)
        for row in status.iterations
        for stage in row.stages
    }
    if status.stage is not None and status.attempt > 0:
        done.add(Attempt(status.iteration, NAMES.index(status.stage), status.attempt))
    return done
