"""`ippo judge` of a run in a folder."""

from argparse import Namespace
from pathlib import Path

from ippo_operator.cli.bucket_flags import check_no_bucket_flags
from ippo_operator.cli.errors import OK
from ippo_operator.cli.folders import amend, open_folder
from ippo_operator.cli.judge.session import evaluated, judge
from ippo_operator.cli.trainer import check_trainer, trainer_errors


def command(arguments: Namespace) -> int:
    """Asks, and writes the count into the run."""
    check_no_bucket_flags(arguments)
    run = open_folder(arguments.run)
    check_trainer()
    from ippo_trainer.store import open_store

    with trainer_errors():
        subject = evaluated(run.status, arguments.iteration, open_store(run.folder.store(run.manifest)))
    place = run.folder.path / f"votes-{subject.iteration}-{arguments.judge}.jsonl"
    votes = judge(arguments, subject, Path(arguments.out) if arguments.out else place)
    amend(run.folder, {"judgement": votes})
    print(f"iteration {subject.iteration}: {votes.in_words()}")
    return OK
