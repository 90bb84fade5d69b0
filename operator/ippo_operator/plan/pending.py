"""How long a stage's pods may wait for a node and their image."""

from ippo_trainer.contract.stages import StageName

from ippo_operator.api.pods import Pods


def pending_limit(pods: Pods, stage: StageName | None) -> int | None:
    """Seconds; None: for ever. A stage's own section comes before `common`."""
    if stage is None:
        return None
    limit = pods.of(stage).pending_deadline_seconds
    return pods.common.pending_deadline_seconds if limit is None else limit
