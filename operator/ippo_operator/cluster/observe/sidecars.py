"""Stages whose pods do not end with them: a container that somebody put beside the stage's, such as a proxy, goes on.

Kubernetes calls a pod ended once all of its containers are, native sidecars apart. So such a Job never says how its
stage ended; the stage's container does. It is judged as the Job's own policy would: by the first that failed, else
once every index is done.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from ippo_operator.cluster import clock
from ippo_operator.cluster.observe import job_state, pod_state
from ippo_operator.cluster.observe.pod_state import Object
from ippo_operator.manifests.identity import JOB_INDEX
from ippo_operator.manifests.jobs import CONTAINER
from ippo_operator.plan.types import ObservedJob

GRACE = timedelta(seconds=15)
"""A sidecar that ends by itself has this time to do so: then the Job ends as ever, and its pods' logs stay."""


def look(job: Object, pods: Iterable[Object], now: datetime) -> tuple[ObservedJob, float] | None:
    """How the stage ended, and the seconds after which to look again; None where its Job will say, or nothing ended.

    Args:
        job: the run's own.
        pods: the Job's own.
        now: the time.
    """
    pods = list(pods)
    left = [pod for pod in pods if _beside(pod) is not None]
    if not left or job_state.over(job) or "deletionTimestamp" in job["metadata"]:
        return None
    failed = [pod for pod in left if _code(pod) != 0 and not (job_state.replaces(job) and pod_state.passed_over(pod))]
    if not failed and len({_index(pod) for pod in left if _code(pod) == 0}) + _done(job, pods) < _wanted(job):
        return None
    wait = max(_wait(pod, now) for pod in failed or left)
    if wait > 0:
        return job_state.observe(job, pods), wait
    first = min(failed or left, key=pod_state.ended_at)
    lingers = f"the container {_beside(first)} of {pod_state.name_of(first)}"
    name, digest = str(job["metadata"]["name"]), job_state.digest_of_child(job)
    if failed:
        return ObservedJob(name, digest, "Failed", failure=pod_state.failure_of(first), lingers=lingers), 0.0
    return replace(job_state.succeeded(job, digest, pods), lingers=lingers), 0.0


def _beside(pod: Object) -> str | None:
    """The container that keeps the pod although the stage in it ended."""
    status = pod.get("status", {})
    over = status.get("phase") in {"Succeeded", "Failed"} or "deletionTimestamp" in pod["metadata"]
    if over or pod_state.stage_end(pod) is None:
        return None
    others = [one for one in status.get("containerStatuses") or () if one.get("name") != CONTAINER]
    return next((str(one.get("name")) for one in others if "terminated" not in (one.get("state") or {})), None)


def _code(pod: Object) -> int | None:
    ended = pod_state.stage_end(pod)
    return int(ended["exitCode"]) if ended is not None else None


def _index(pod: Object) -> str:
    metadata = pod["metadata"]
    return str((metadata.get("annotations") or {}).get(JOB_INDEX, metadata["name"]))


def _wanted(job: Object) -> int:
    return int(job["spec"].get("completions") or 1)


def _done(job: Object, pods: list[Object]) -> int:
    """Pods that ended well and whole, by the Job's count or by what is left of them."""
    there: int = sum(pod.get("status", {}).get("phase") == "Succeeded" for pod in pods)
    return max(there, int((job.get("status") or {}).get("succeeded") or 0))


def _wait(pod: Object, now: datetime) -> float:
    """Seconds that the sidecar still has. A time far in the future is of a clock that is wrong: nobody waits for it."""
    ended = pod_state.stage_end(pod)
    moment = ended.get("finishedAt") if ended is not None else None
    if moment is None:
        return 0.0
    left: float = (clock.moment(moment) + GRACE - now).total_seconds()
    return left if left <= 2 * GRACE.total_seconds() else 0.0
