"""How far the running stage of a run in a cluster is, by the logs of its pods."""

from ippo_operator.cli.run_view import RunView
from ippo_operator.cluster.errors import ApiError, InvalidError
from ippo_operator.cluster.remote.runs import Runs
from ippo_operator.local.watch import Progress, joined
from ippo_operator.manifests.identity import ATTEMPT, ITERATION, STAGE

_TAIL = 20
_SHARDS = 8
"""Logs of at most so many pods are read for the progress of a stage; its shards get on alike."""


def cluster_progress(runs: Runs, run: RunView) -> Progress | str | None:
    """How far the running stage says it is; a text where its logs cannot be read."""
    status = run.status
    if status.active is None or status.stage is None or status.active.waiting is not None:
        return None
    labels = {ITERATION: str(status.iteration), STAGE: status.stage, ATTEMPT: str(status.attempt)}
    try:
        pods = runs.pods(run.raw, labels)
        return joined(list(runs.log(pod, tail=_TAIL)) for pod in pods[:_SHARDS])
    except InvalidError:  # no log yet: a container has not started
        return None
    except ApiError as error:
        return f"progress is not known: {error}"
