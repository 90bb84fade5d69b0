"""`ippo approve`, `reject` and `retry` of a run in a folder; the run goes on at once, as with `ippo run`."""

from argparse import Namespace

from ippo_operator.cli.decide.answers import answer
from ippo_operator.cli.errors import OK, CommandError
from ippo_operator.cli.folders import amend, open_folder
from ippo_operator.cli.run.folder import drive
from ippo_operator.plan import failures


def command(arguments: Namespace) -> int:
    """Does what the verb says."""
    return _retry(arguments) if arguments.command == "retry" else _answer(arguments)


def _retry(arguments: Namespace) -> int:
    """Has the stage that stalled tried once more."""
    run = open_folder(arguments.run)
    if not failures.can_be_asked_again(run.view.status, run.manifest.spec):
        if run.view.phase == "Failed":
            raise CommandError(f"another attempt would come to the same: {run.view.message}")
        raise CommandError(f"{run.view.argument} has no stage that stalled ({run.view.phase}: {run.view.message})")
    return drive(run.folder, run.manifest, str(run.folder.run_file))


def _answer(arguments: Namespace) -> int:
    """Answers for the candidate that waits, and goes on."""
    run = open_folder(arguments.run)
    change = answer(run.view, arguments.iteration, approves=arguments.command == "approve")
    if not change.patch:
        print(change.confirmation)
        return OK
    if change.question:
        print(change.question)
    if run.runner_active and run.manifest.spec.collect.logged is not None:
        run.folder.leave_answer(change.patch["promotion"])
        print(f"{change.confirmation}; the `ippo run` that is at work takes it up")
        return OK
    run = amend(run.folder, change.patch["promotion"])
    print(change.confirmation)
    return drive(run.folder, run.manifest, str(run.folder.run_file))
