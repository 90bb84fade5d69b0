"""What the spec says about a stage's pods apart from what they compute; it may change while a run goes on."""

from ippo_trainer.contract.digests import digest_of
from ippo_trainer.contract.spec import StageName

from ippo_operator.api.resource import IterativePPORun
from ippo_operator.manifests.overrides import for_stage


def settings_digest(run: IterativePPORun, stage: StageName) -> str:
    """Of all that makes the Job of a stage another one without making its result another one."""
    settings = for_stage(run.spec.pods, stage).model_dump(mode="json", by_alias=True, exclude_none=True)
    queue = run.spec.queue.model_dump(mode="json", by_alias=True, exclude_none=True) if run.spec.queue else {}
    return digest_of({"pods": settings, "queue": queue, "serviceAccountName": run.spec.service_account_name or ""})
