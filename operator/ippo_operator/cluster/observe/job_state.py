"""A Job and its pods as the planner sees them."""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from ippo_trainer.contract.digests import NO_DIGEST

from ippo_operator.api.reasons import Reason
from ippo_operator.api.status import Waiting
from ippo_operator.cluster import clock
from ippo_operator.cluster.observe import pod_state
from ippo_operator.cluster.observe.pod_state import Object
from ippo_operator.cluster.remedies import with_remedy
from ippo_operator.manifests.identity import INPUT_DIGEST, QUEUE_NAME
from ippo_operator.plan.cleanup import EndedJob
from ippo_operator.plan.types import JobFailure, ObservedJob

FOREIGN_DIGEST = NO_DIGEST
"""Of a child that is not ours: no attempt has it, so the planner takes it for a conflict."""
_QUEUE = (
    "If it stays: this namespace needs a LocalQueue of that name (spec.queue.localQueueName) whose ClusterQueue has "
    "room; `kubectl describe workloads` tells what is missing."
)
_EXIT_CODE = re.compile(r"exit code (\d{1,3})\b")


def is_ours(child: Object, run_uid: str) -> bool:
    """Whether the run owns it: by UID, never by name or label alone."""
    return pod_state.controller_uid(child) == run_uid


def digest_of_child(child: Object) -> str:
    """The input digest that a child was made from."""
    return str((child["metadata"].get("annotations") or {}).get(INPUT_DIGEST, FOREIGN_DIGEST))


def over(job: Object) -> bool:
    """Whether the Job ended; one that is about to end is not over."""
    return _is(job, "Complete") or _is(job, "Failed")


def ended(job: Object) -> EndedJob | None:
    """When and how the Job ended; None while it is not over, or is being deleted."""
    conditions = _conditions(job)
    last = conditions.get("Complete") or conditions.get("Failed")
    if last is None or "deletionTimestamp" in job["metadata"]:
        return None
    moment = clock.moment(last["lastTransitionTime"])
    return EndedJob(str(job["metadata"]["name"]), "Complete" in conditions, moment)


def foreign(name: str) -> ObservedJob:
    """A child that has our name and another owner."""
    return ObservedJob(name, FOREIGN_DIGEST, "Running")


def refused(name: str, digest: str, message: str) -> ObservedJob:
    """A job that the API server does not let us create."""
    text = f"the API server refuses to create {name}: {with_remedy(message)}"
    return ObservedJob(name, digest, "Refused", waiting=Waiting(reason=Reason.CHILD_REFUSED, message=text))


def outdated(job: Object, settings: Mapping[str, str]) -> bool:
    """Whether the Job was made with other settings than these annotations; what it does not say is no difference."""
    annotations = job["metadata"].get("annotations") or {}
    return any(annotations.get(name, digest) != digest for name, digest in settings.items())


def observe(job: Object, pods: Iterable[Object] = (), troubles: Iterable[str] = ()) -> ObservedJob:
    """The Job as the planner sees it.

    Args:
        job: ours, as `is_ours` says.
        pods: read after the Job was; those that it does not own are left out.
        troubles: what the Job controller and the kubelet complain about.
    """
    name, digest = str(job["metadata"]["name"]), digest_of_child(job)
    own = pod_state.owned_by(pods, str(job["metadata"]["uid"]))
    if _is(job, "Complete"):
        return succeeded(job, digest, own)
    if _is(job, "Failed"):
        if pod_state.all_done(own, int(job["spec"].get("completions") or 1)):
            return succeeded(job, digest, own)  # what failed is a container beside the stage's
        return ObservedJob(name, digest, "Failed", failure=_failure(job, own))
    waiting = _waiting(job, own, list(troubles))
    return ObservedJob(name, digest, "Running", waiting=waiting, pending_since=_pending_since(job, own))


def succeeded(job: Object, digest: str, pods: list[Object]) -> ObservedJob:
    """The Job after its stage was done in all pods that are left of it."""
    name, results = str(job["metadata"]["name"]), pod_state.results(pods)
    # Of several pods only one names the artifact: the others' words are no result where it went with its node.
    left = sum(pod.get("status", {}).get("phase") != "Failed" for pod in pods)
    if left < int(job["spec"].get("completions") or 1) and not any(result.artifacts for result in results):
        text = f"{name} is done, but pods of it are gone, and what they said with them; a new attempt reads it again"
        return ObservedJob(name, digest, "Failed", failure=JobFailure(message=text, disrupted=True))
    return ObservedJob(name, digest, "Succeeded", results)


def _failure(job: Object, pods: list[Object]) -> JobFailure:
    failure = pod_state.first_failure(pods, replaces(job))
    if failure is not None:
        return failure
    failed = _conditions(job)["Failed"]
    message = " ".join(str(failed.get("message") or failed.get("reason") or "the job failed").split())
    code = _EXIT_CODE.search(message) if failed.get("reason") == "PodFailurePolicy" else None
    # Without a pod to tell, a failure that no policy explains is a loss and not the stage's fault.
    lost = code is None and failed.get("reason") not in {"DeadlineExceeded", "PodFailurePolicy"}
    return JobFailure(int(code[1]) if code else None, message, disrupted=lost)


def replaces(job: Object) -> bool:
    """Whether the Job makes pods that were disrupted anew."""
    policy = job["spec"].get("podFailurePolicy") or {}
    return any(rule.get("action") == "Ignore" for rule in policy.get("rules") or ())


def _waiting(job: Object, pods: list[Object], troubles: list[str]) -> Waiting | None:
    if job["spec"].get("suspend"):
        queue = (job["metadata"].get("labels") or {}).get(QUEUE_NAME)
        if queue:
            return Waiting(
                reason=Reason.WAITING_FOR_QUOTA,
                message=f"{job['metadata']['name']} waits in the queue {queue}. {_QUEUE}",
            )
        return _paused(job, "somebody suspended it", {"suspend": False})
    if _without_pods(job):
        return _paused(job, "somebody set its parallelism to 0", {"parallelism": job["spec"].get("completions") or 1})
    reason = pod_state.waiting(pods)
    if reason is not None or not troubles:
        return reason
    if not pods:
        return Waiting(reason=Reason.POD_REFUSED, message=f"no pod can be created: {with_remedy(troubles[-1])}")
    return Waiting(reason=Reason.POD_NOT_STARTED, message=with_remedy(troubles[-1]))


def _without_pods(job: Object) -> bool:
    return bool(job["spec"].get("parallelism", 1) == 0)


def _paused(job: Object, why: str, mended: dict[str, object]) -> Waiting:
    metadata, patch = job["metadata"], json.dumps({"spec": mended}, separators=(",", ":"))
    command = f"kubectl patch job {metadata['name']} --namespace {metadata['namespace']} --type=merge -p '{patch}'"
    return Waiting(
        reason=Reason.JOB_PAUSED,
        message=f"{metadata['name']} makes no pods, because {why}. To have it go on: {command}",
    )


def _pending_since(job: Object, pods: list[Object]) -> datetime | None:
    """Since when the Job has no pods, or since when the one waits that has waited longest; None in a queue, or
    where somebody paused it."""
    if job["spec"].get("suspend") or _without_pods(job) or _conditions(job):
        return None
    waiting = [pod["metadata"] for pod in pods if pod.get("status", {}).get("phase", "Pending") == "Pending"]
    if pods and not waiting:
        return None
    # A Job that comes out of its queue gets a new start time.
    began = job.get("status", {}).get("startTime") or job["metadata"].get("creationTimestamp")
    times = [metadata.get("creationTimestamp") for metadata in waiting] or [began]
    return min((clock.moment(time) for time in times if time), default=None)


def not_started(job: Object, pods: Iterable[Object]) -> bool:
    """Whether the Job should run but no pod of it does, so that events may tell why."""
    own = pod_state.owned_by(pods, str(job["metadata"]["uid"]))
    running = any(pod.get("status", {}).get("phase") not in {None, "Pending"} for pod in own)
    return not over(job) and not job["spec"].get("suspend") and not _without_pods(job) and not running


def _conditions(job: Object) -> dict[str, Any]:
    return {c["type"]: c for c in job.get("status", {}).get("conditions") or () if c.get("status") == "True"}


def _is(job: Object, kind: str) -> bool:
    return kind in _conditions(job)
