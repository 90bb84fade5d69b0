"""One run and its children, read fresh: the run first, then its Jobs, then the active Job's pods.

In this order nothing that is seen is older than what it is judged by: a Job that is over had its pods end before.
"""

import dataclasses
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from ippo_operator.api.load import parse_run
from ippo_operator.api.problems import ManifestError
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.status import RunStatus
from ippo_operator.cluster import jobs, sidecars
from ippo_operator.cluster import pods as pod_facts
from ippo_operator.cluster.client import Client, Manifest
from ippo_operator.cluster.errors import NotFoundError
from ippo_operator.cluster.pods import Object
from ippo_operator.cluster.resources import CORE_EVENTS, JOBS, PODS, RUNS
from ippo_operator.manifests.identity import RUN_UID
from ippo_operator.manifests.settings import settings_annotations
from ippo_operator.plan.types import ObservedJob

_PATIENCE, _LONGEST = 4.0, 60.0
_COMPLAINTS = {"FailedCreate", "FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"}


class UnreadableStatusError(Exception):
    """The status is not one that this operator writes; it is left alone."""


@dataclass(frozen=True)
class Snapshot:
    """A run and what exists of it."""

    raw: Manifest
    """The run as the server has it."""
    run: IterativePPORun | None
    """None where the spec cannot be used; `problem` says why."""
    problem: str
    jobs: dict[str, Manifest]
    """The Jobs that the run owns, by name."""
    observed: tuple[ObservedJob, ...]
    look_again: float | None = None
    """Seconds after which to look again because no event would tell: pods that cannot be created make none here."""

    @property
    def being_deleted(self) -> bool:
        """Whether the run is on its way out: nothing may be made for it any more."""
        return "deletionTimestamp" in self.raw["metadata"]

    @property
    def uid(self) -> str:
        """Of the run."""
        return str(self.raw["metadata"]["uid"])


async def snapshot(client: Client, namespace: str, name: str, now: datetime) -> Snapshot | None:
    """The run as it is now; None if there is none.

    Args:
        client: reads.
        namespace: of the run.
        name: of the run.
        now: the time, to tell a Job that just began from one that does not get on.

    Raises:
        ApiError: the API server refused, or could not be reached.
        UnreadableStatusError: somebody else wrote the status.
    """
    raw = await client.get(RUNS, namespace, name)
    if raw is None:
        return None
    run, problem = _parse(raw)
    if run is None or "deletionTimestamp" in raw["metadata"]:
        return Snapshot(raw, run, problem, {}, ())
    uid = str(raw["metadata"]["uid"])
    listed = await client.list(JOBS, namespace, f"{RUN_UID}={uid}")
    owned = {str(job["metadata"]["name"]): job for job in listed if jobs.is_ours(job, uid)}
    active = run.status.active.job_name if run.status is not None and run.status.active is not None else None
    if active is None:
        return Snapshot(raw, run, "", owned, ())
    found = owned.get(active)
    if found is None:
        # Asked for by name too: a label may have been taken off it, and what is listed may be another one's view.
        found = await client.get(JOBS, namespace, active)
    if found is None:
        return Snapshot(raw, run, "", owned, ())
    if not jobs.is_ours(found, uid):
        return Snapshot(raw, run, "", owned, (jobs.foreign(active),))
    owned[active] = found
    observed, look_again = await _observe(client, namespace, found, now)
    if run.status is not None and run.status.stage is not None:
        stale = jobs.outdated(found, settings_annotations(run, run.status.stage))
        observed = dataclasses.replace(observed, outdated=stale)
    return Snapshot(raw, run, "", owned, (observed,), look_again)


def _parse(raw: Manifest) -> tuple[IterativePPORun | None, str]:
    try:
        run = parse_run(raw)
    except ManifestError as error:
        return None, "; ".join(map(str, error.problems))
    if run.spec.artifacts is None:
        return None, "spec.artifacts is missing; a run in a cluster keeps its artifacts in a bucket"
    status = raw.get("status")
    if not status:
        return run, ""
    try:
        read = RunStatus.model_validate_json(
            json.dumps(status, ensure_ascii=False).encode(errors="replace"), by_alias=True, by_name=False
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        text = f"status.{where}: {first['msg']}; it was not written by this version of the operator"
        raise UnreadableStatusError(text) from None
    return run.model_copy(update={"status": read}), ""


async def _observe(client: Client, namespace: str, job: Manifest, now: datetime) -> tuple[ObservedJob, float | None]:
    uid = job["metadata"]["uid"]
    pods = await client.list(PODS, namespace, f"batch.kubernetes.io/controller-uid={uid}")
    ended = sidecars.look(job, pod_facts.owned_by(pods, uid), now)
    if ended is not None:
        return ended
    if not jobs.not_started(job, pods):
        return _ending(jobs.observe(job, pods), pod_facts.owned_by(pods, uid), now)
    age = (now - _began(job, pods)).total_seconds()
    # A time in the future is that of another clock: it says nothing about how long this has been going on.
    troubles = await _troubles(client, namespace, job, pods) if not 0 <= age < _PATIENCE else []
    return jobs.observe(job, pods, troubles), min(_LONGEST, max(_PATIENCE, age / 2))


def _ending(observed: ObservedJob, pods: list[Object], now: datetime) -> tuple[ObservedJob, float | None]:
    """Of a job whose pods run: with a pod that does not end, which no event would tell."""
    if observed.state != "Running" or not any("deletionTimestamp" in pod["metadata"] for pod in pods):
        return observed, None
    late = pod_facts.does_not_end(pods, now)
    return (dataclasses.replace(observed, waiting=late) if late is not None else observed), _LONGEST


def _began(job: Manifest, pods: list[Manifest]) -> datetime:
    """The latest of what should lead to a pod that runs: the Job was made, came out of its queue, got a pod."""
    times = [job["metadata"]["creationTimestamp"], (job.get("status") or {}).get("startTime")]
    times += [pod["metadata"].get("creationTimestamp") for pod in pods]
    return max(datetime.fromisoformat(str(time)) for time in times if time)


async def _troubles(client: Client, namespace: str, job: Manifest, pods: list[Manifest]) -> list[str]:
    """What the Job controller (without pods) or the kubelet (with pods) complains about, oldest first."""
    about = pods[0] if pods else job
    selector = f"involvedObject.uid={about['metadata']['uid']},type=Warning"
    try:
        events = await client.list(CORE_EVENTS, namespace, fields=selector)
    except NotFoundError:
        return []
    told = [event for event in events if event.get("reason") in _COMPLAINTS]
    return [" ".join(str(event.get("message") or "").split()) for event in sorted(told, key=_time)]


def _time(event: dict[str, Any]) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")
