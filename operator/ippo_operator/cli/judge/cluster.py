"""`ippo judge` of a run in a cluster: the states come from its bucket, the count goes into its spec."""

from argparse import Namespace
from pathlib import Path

from ippo_operator.cli.bucket import bucket
from ippo_operator.cli.clusters import cluster, find
from ippo_operator.cli.errors import OK
from ippo_operator.cli.judge.session import evaluated, judge
from ippo_operator.cli.trainer import check_trainer, trainer_errors


def command(arguments: Namespace) -> int:
    """Asks, and writes the count into the run."""
    with cluster(arguments) as runs:
        run = find(runs, arguments.run)
        check_trainer()
        from ippo_trainer.store import open_store

        with bucket(arguments, runs, run) as location, trainer_errors():
            subject = evaluated(run.status, arguments.iteration, open_store(location))
        place = Path(arguments.out or f"{run.name}-votes-{subject.iteration}-{arguments.judge}.jsonl")
        votes = judge(arguments, subject, place)
        patch = votes.model_dump(mode="json", by_alias=True)
        runs.patch(run.name, {"spec": {"promotion": {"judgement": patch}}})
    print(f"iteration {subject.iteration}: {votes.in_words()}")
    return OK
