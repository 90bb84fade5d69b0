"""What a stage's pods tell: results and failures of containers that ended, and why others do not start.

A pod counts only if the Job owns it by UID. Its termination message is text from a container: it is believed only as
far as it parses; which stage and inputs a result is for is the planner's check.
"""

import json
import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from ippo_trainer.contract.errors import FINAL
from ippo_trainer.contract.lines import cut
from ippo_trainer.contract.spec import MAX_RESULT_BYTES, StageResult
from pydantic import ValidationError

from ippo_operator.api.reasons import Reason
from ippo_operator.api.status import Waiting
from ippo_operator.cluster.remedies import with_remedy
from ippo_operator.manifests.jobs import CONTAINER
from ippo_operator.plan.types import JobFailure

Object: TypeAlias = Mapping[str, Any]
_IMAGE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
_CONFIG = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
_DISRUPTED = {"Preempting", "Terminated", "NodeLost", "NodeShutdown", "Shutdown", "UnexpectedAdmissionError"}
_LATE = timedelta(seconds=60)
_ROOM = 600
"""Bytes of a message that others wrote, so that the remedy after it is not cut off."""
_ADMISSION_FIRST = ("Unschedulable", "SchedulingGated")


def owned_by(pods: Iterable[Object], uid: str) -> list[Object]:
    """The pods whose controller is the object with that UID."""
    return [pod for pod in pods if controller_uid(pod) == uid]


def controller_uid(child: Object) -> str | None:
    """UID of the controlling owner."""
    owners = child.get("metadata", {}).get("ownerReferences") or ()
    return next((str(owner.get("uid")) for owner in owners if owner.get("controller")), None)


def results(pods: Iterable[Object]) -> tuple[StageResult, ...]:
    """The readable results of pods that ended well."""
    candidates = (_result(terminated) for pod in pods if (terminated := stage_end(pod)) and terminated["exitCode"] == 0)
    return tuple(result for result in candidates if result is not None)


def _result(terminated: Object) -> StageResult | None:
    message = terminated.get("message")
    if not isinstance(message, str) or len(message.encode()) > MAX_RESULT_BYTES:
        return None
    try:
        result = StageResult.model_validate_json(message, by_alias=True, by_name=False)
    except ValidationError:
        return None
    return result if all(map(math.isfinite, result.metrics.values())) else None


def all_done(pods: Iterable[Object], count: int) -> bool:
    """Whether the stage ended well in so many pods, also where another container of them failed, and left a result."""
    done = [pod for pod in pods if (ended := stage_end(pod)) is not None and ended["exitCode"] == 0]
    return len(done) >= count and any(result.artifacts for result in results(done))


def first_failure(pods: Iterable[Object], replaced: bool = False) -> JobFailure | None:
    """How the pod that failed first ended: the others' ends only follow from it. None where no pod tells.

    Args:
        pods: of one Job.
        replaced: whether the Job replaces pods that were disrupted. The kubelet leaves those that it evicts behind;
            what ended the Job, hours later maybe, is then how another pod ended.
    """
    failed = [pod for pod in pods if pod.get("status", {}).get("phase") == "Failed"]
    if replaced:
        failed = [pod for pod in failed if not passed_over(pod)] or failed
    if not failed:
        return None
    return failure_of(min(failed, key=ended_at))


def passed_over(pod: Object) -> bool:
    """Whether a Job's policy passes over the pod: disrupted, and no exit code says that it would fail again."""
    terminated = stage_end(pod)
    final = terminated is not None and terminated["exitCode"] in FINAL
    return _is_disrupted(pod.get("status", {})) and not final


def ended_at(pod: Object) -> tuple[bool, str]:
    """Pods without a time, which a lost node leaves behind, come last."""
    terminated = stage_end(pod)
    moment = terminated.get("finishedAt") if terminated is not None else None
    return moment is None, str(moment or "")


def failure_of(pod: Object) -> JobFailure:
    """How the pod failed, or the stage in one that goes on."""
    status, terminated = pod.get("status", {}), stage_end(pod)
    targeted = _is_disrupted(status)
    if not targeted and status.get("reason") == "Evicted":  # the kubelet marks those that the node has no room for
        message = str(status.get("message") or "it wrote more to its disk than it may").strip().rstrip(".")
        return JobFailure(None, f"{name_of(pod)}: {message}. Raise workSize or ephemeral-storage of spec.pods.")
    if status.get("reason") == "DeadlineExceeded" and (terminated is None or terminated["exitCode"] != 0):
        return JobFailure(None, f"{name_of(pod)}: ran longer than activeDeadlineSeconds of spec.pods allows")
    disrupted = targeted or status.get("reason") in _DISRUPTED
    other = None if disrupted else _other_failure(pod)
    if other is not None and (terminated is None or terminated["exitCode"] == 0):
        return other
    if terminated is None or (terminated["exitCode"] == 0 and disrupted):
        lost = condition_of(status, "DisruptionTarget").get("message") or "the pod ended without a word"
        return JobFailure(None, f"{name_of(pod)}: {status.get('message') or lost}", disrupted=True)
    code = int(terminated["exitCode"])
    message = said(terminated.get("message"))
    if terminated.get("reason") == "OOMKilled":
        message = "killed because it needed more memory than its limit; raise resources.limits.memory of spec.pods"
    return JobFailure(code, message or f"exit code {code}; see the log of {name_of(pod)}", disrupted=disrupted)


def _other_failure(pod: Object) -> JobFailure | None:
    """How a container failed that somebody put beside the stage's, or before it: of a mesh, of a Secrets' agent."""
    status = pod.get("status", {})
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        ended = (container.get("state") or {}).get("terminated") or {}
        if container.get("name") != CONTAINER and ended.get("exitCode"):
            text = (
                f"{name_of(pod)}: the container {container.get('name')}, which is not the run's, ended with exit code"
            )
            message = said(ended.get("message")) or str(ended.get("reason") or "")
            return JobFailure(None, f"{text} {ended['exitCode']}: {message}".rstrip(": "))
    return None


def said(message: Any) -> str:
    """A container's own words: `{"error": {"reason", "message"}}`, or the end of its log where it wrote none."""
    if not isinstance(message, str):
        return ""
    try:
        words = json.loads(message)["error"]["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        words = None
    return words if isinstance(words, str) else message[-400:]


def waiting(pods: Iterable[Object]) -> Waiting | None:
    """Why pods do not run, as far as their own status tells; the first that has a reason speaks for all."""
    return next((reason for pod in pods if (reason := _waiting(pod)) is not None), None)


def _waiting(pod: Object) -> Waiting | None:
    status = pod.get("status", {})
    if status.get("phase") != "Pending":
        return None
    scheduled = condition_of(status, "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason") in _ADMISSION_FIRST:
        message = cut(str(scheduled.get("message") or scheduled["reason"]), _ROOM)
        return Waiting(
            reason=Reason.UNSCHEDULABLE,
            message=f"no node takes {name_of(pod)}: {message} {Reason.UNSCHEDULABLE.remedy}",
        )
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    for container in containers:
        state = (container.get("state") or {}).get("waiting") or {}
        message = cut(str(state.get("message") or state.get("reason") or ""), _ROOM)
        if state.get("reason") in _IMAGE:
            remedy = "Correct image or imagePullSecrets of spec.pods."
            text = f"{container.get('image', 'the image')} cannot be pulled: {message}. {remedy}"
            return Waiting(reason=Reason.IMAGE_PULL_FAILED, message=text)
        if state.get("reason") in _CONFIG:
            return Waiting(
                reason=Reason.POD_NOT_STARTED, message=f"{name_of(pod)} cannot start: {with_remedy(message)}"
            )
    return None


def does_not_end(pods: Iterable[Object], now: datetime) -> Waiting | None:
    """A pod that was told to stop and is there long after its grace period: only its node could say that it ended."""
    for pod in pods:
        due, phase = pod["metadata"].get("deletionTimestamp"), pod.get("status", {}).get("phase")
        if due is None or phase in {"Succeeded", "Failed"} or now - datetime.fromisoformat(str(due)) < _LATE:
            continue
        node = pod.get("spec", {}).get("nodeName") or "its node"
        text = f"{name_of(pod)} should have ended at {due}, but {node} does not say that it has"
        remedy = f"Bring the node back or, if it is gone for good, delete it: kubectl delete node {node}"
        return Waiting(reason=Reason.DISRUPTED, message=f"{text}. {remedy}")
    return None


def stage_end(pod: Object) -> Object | None:
    """How the stage's container ended; None while it has not."""
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    ours = [status for status in statuses if status.get("name") == CONTAINER]
    ended: Object | None = (ours[0].get("state") or {}).get("terminated") if ours else None
    return ended if ended is not None and isinstance(ended.get("exitCode"), int) else None


def condition_of(status: Object, kind: str) -> Object:
    """The condition of that type, or nothing of it."""
    match: Object = next((one for one in status.get("conditions") or () if one.get("type") == kind), {})
    return match


def _is_disrupted(status: Object) -> bool:
    return condition_of(status, "DisruptionTarget").get("status") == "True"


def name_of(pod: Object) -> str:
    """For people."""
    return f"pod {pod['metadata']['name']}"
