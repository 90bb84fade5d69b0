"""All that makes the Job of a stage another one without making its result another one; it may change in mid-run."""

from ippo_trainer.contract.digests import digest_of
from ippo_trainer.contract.stages import StageName

from ippo_operator.api.resource import IterativePPORun
from ippo_operator.manifests import identity
from ippo_operator.manifests.overrides import for_stage


def settings_annotations(run: IterativePPORun, stage: StageName) -> dict[str, str]:
    """Digests of the settings that a Job was made with. Jobs of former operators have the first alone."""
    address = digest_of(run.spec.store_address())
    return {identity.SETTINGS_DIGEST: _settings_digest(run, stage), identity.STORE_DIGEST: address}


def _settings_digest(run: IterativePPORun, stage: StageName) -> str:
    """Of its pods, their queue and their account."""
    settings = for_stage(run.spec.pods, stage).model_dump(mode="json", by_alias=True, exclude_none=True)
    queue = run.spec.queue.model_dump(mode="json", by_alias=True, exclude_none=True) if run.spec.queue else {}
    return digest_of({"pods": settings, "queue": queue, "serviceAccountName": run.spec.service_account_name or ""})
