"""One run and its children, read fresh: the run first, then its Jobs, then the active Job's pods.

In this order nothing that is seen is older than what it is judged by: a Job that is over had its pods end before.
"""

import dataclasses
import json
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from ippo_operator.api.load import parse_run
from ippo_operator.api.problems import ManifestError
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.status import RunStatus
from ippo_operator.cluster.client import Client, Manifest
from ippo_operator.cluster.errors import NotFoundError
from ippo_operator.cluster.observe import job_state, pod_state, sidecars, trim
from ippo_operator.cluster.observe.owned_jobs import OwnedJob, OwnedJobs
from ippo_operator.cluster.observe.pod_state import Object
from ippo_operator.cluster.resources import CORE_EVENTS, JOBS, PODS, RUNS
from ippo_operator.manifests.identity import JOB_UID
from ippo_operator.manifests.settings import settings_annotations
from ippo_operator.plan.types import ObservedJob

_PATIENCE, _LONGEST, _SOON = 4.0, 60.0, 1.0
"""Seconds."""
_METADATA = {"name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp"}
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
    jobs: dict[str, OwnedJob]
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


async def read_snapshot(client: Client, owned: OwnedJobs, namespace: str, name: str, now: datetime) -> Snapshot | None:
    """The run as it is now; None if there is none.

    Args:
        client: reads.
        owned: remembers Jobs.
        namespace: of the run.
        name: of the run.
        now: the time, to tell a Job that just began from one that does not get on.

    Raises:
        ApiError: the API server refused, or could not be reached.
        UnreadableStatusError: somebody else wrote the status.
    """
    whole = await client.get(RUNS, namespace, name)
    if whole is None:
        owned.forget(namespace, name)
        return None
    run, problem = _parse(whole)
    raw = _without_spec(whole)
    del whole
    uid = str(raw["metadata"]["uid"])
    if "deletionTimestamp" in raw["metadata"]:
        own, more = await owned.read(client, namespace, name, uid, None)
        return Snapshot(raw, run, problem, jobs=own, observed=(), look_again=_SOON if more else None)
    if run is None:
        return Snapshot(raw, run, problem, jobs={}, observed=())
    active = run.status.active.job_name if run.status is not None and run.status.active is not None else None
    job = await client.get(JOBS, namespace, active) if active is not None else None
    ours = job if job is not None and job_state.is_ours(job, uid) else None
    own, more = await owned.read(client, namespace, name, uid, ours)
    soon = _SOON if more else None
    if ours is None or run.status is None:
        foreign = () if job is None else (job_state.foreign(str(active)),)
        return Snapshot(raw, run, problem, jobs=own, observed=foreign, look_again=soon)
    observed, look_again = await _observe(client, namespace, ours, now)
    if run.status.stage is not None:
        stale = job_state.outdated(ours, settings_annotations(run, run.status.stage))
        observed = dataclasses.replace(observed, outdated=stale)
    return Snapshot(raw, run, problem, jobs=own, observed=(observed,), look_again=soon or look_again)


def _without_spec(raw: Manifest) -> Manifest:
    """What a status is written with: of the rest the API server takes the metadata, and who owns what of it."""
    return {name: raw[name] for name in ("apiVersion", "kind", "metadata", "status") if name in raw}


def _parse(raw: Manifest) -> tuple[IterativePPORun | None, str]:
    try:
        # Labels and the like are nobody's matter here, whatever Kubernetes takes.
        metadata = {name: value for name, value in raw["metadata"].items() if name in _METADATA}
        run = parse_run(raw | {"metadata": metadata})
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
    pods = await _pods(client, namespace, uid)
    ended = sidecars.look(job, pods, now)
    if ended is not None:
        return ended
    if not job_state.not_started(job, pods):
        return _ending(job_state.observe(job, pods), pod_state.owned_by(pods, uid), now)
    age = (now - _began(job, pods)).total_seconds()
    # A time in the future is that of another clock: it says nothing about how long this has been going on.
    troubles = await _troubles(client, namespace, job, pods) if not 0 <= age < _PATIENCE else []
    return job_state.observe(job, pods, troubles), min(_LONGEST, max(_PATIENCE, age / 2))


async def _pods(client: Client, namespace: str, uid: str) -> list[Manifest]:
    """Those of the Job with that UID, in what is needed of them."""

    def own(pod: Manifest) -> Manifest | None:
        return trim.pod(pod) if pod_state.controller_uid(pod) == uid else None

    return await client.list(PODS, namespace, f"{JOB_UID}={uid}", keep=own)


def _ending(observed: ObservedJob, pods: list[Object], now: datetime) -> tuple[ObservedJob, float | None]:
    """Of a job whose pods run: with a pod that does not end, which no event would tell."""
    if observed.state != "Running" or not any("deletionTimestamp" in pod["metadata"] for pod in pods):
        return observed, None
    late = pod_state.does_not_end(pods, now)
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
        complaints = await client.list(CORE_EVENTS, namespace, fields=selector, keep=_complaint)
    except NotFoundError:
        return []
    return [text for _, text in sorted(complaints)]


def _complaint(event: Manifest) -> tuple[str, str] | None:
    """When, and what."""
    if event.get("reason") not in _COMPLAINTS:
        return None
    series = event.get("series") or {}
    moment = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or ""
    return str(moment), " ".join(trim.cut(event.get("message") or "").split())
