"""The Jobs that a run owns. Lists tell of metadata only; how a Job stands is read by name, once for each change of it.

So what a pass holds does not grow with the size of Jobs, and hardly with the number of those that are kept.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from ippo_operator.cluster.client import Client, Manifest
from ippo_operator.cluster.observe import job_state
from ippo_operator.cluster.resources import JOBS, Key
from ippo_operator.manifests.identity import RUN_UID
from ippo_operator.plan.cleanup import EndedJob

_AT_ONCE = 20
"""Jobs that one pass reads by name; those of a run that is new to this process may be hundreds."""


@dataclass(frozen=True, slots=True)
class OwnedJob:
    """A Job of the run, as far as anything beside the attempt that it is of depends on it."""

    name: str
    uid: str
    version: str
    """resourceVersion."""
    created_at: datetime
    deleting: bool
    over: bool
    ended: EndedJob | None
    """None while it is not over, or is being deleted."""
    meets: bool
    """Whether its pods meet at a Service of its name."""


class _Listed(NamedTuple):
    created_at: str
    name: str
    uid: str
    version: str


def owned_job(job: Manifest) -> OwnedJob:
    """What stays of a Job that was read whole."""
    metadata = job["metadata"]
    return OwnedJob(
        name=str(metadata["name"]),
        uid=str(metadata["uid"]),
        version=str(metadata["resourceVersion"]),
        created_at=datetime.fromisoformat(str(metadata["creationTimestamp"])),
        deleting="deletionTimestamp" in metadata,
        over=job_state.over(job),
        ended=job_state.ended(job),
        meets="subdomain" in job["spec"]["template"]["spec"],
    )


class OwnedJobs:
    """Remembers how each Job of each run stood, in a few hundred bytes, until it changes."""

    def __init__(self) -> None:
        self._known: dict[Key, dict[str, OwnedJob]] = {}

    def forget(self, namespace: str, run: str) -> None:
        """The run is gone."""
        self._known.pop((namespace, run), None)

    async def read(
        self, client: Client, namespace: str, run: str, run_uid: str, active: Manifest | None
    ) -> tuple[dict[str, OwnedJob], bool]:
        """The run's Jobs by name, and whether there are more that another pass has to read.

        Args:
            client: reads.
            namespace: of the run.
            run: its name.
            run_uid: of the run; its Jobs are those that it controls, whatever their labels say.
            active: a Job of the run that was read already.
        """

        def of_this_run(job: Manifest) -> _Listed | None:
            metadata = job["metadata"]
            if not job_state.is_ours(job, run_uid):
                return None
            return _Listed(
                str(metadata.get("creationTimestamp")), metadata["name"], metadata["uid"], metadata["resourceVersion"]
            )

        listed: list[_Listed] = await client.list(
            JOBS, namespace, f"{RUN_UID}={run_uid}", metadata_only=True, keep=of_this_run
        )
        before = self._known.get((namespace, run), {})
        jobs = {job.uid: before[job.uid] for job in listed if _same(before.get(job.uid), job)}
        if active is not None:
            jobs[active["metadata"]["uid"]] = owned_job(active)
        news = [job for job in sorted(listed, reverse=True) if job.uid not in jobs]
        for item in news[:_AT_ONCE]:  # the latest first: an attempt that came late is among them
            whole = await client.get(JOBS, namespace, item.name)
            if whole is not None and job_state.is_ours(whole, run_uid):
                jobs[whole["metadata"]["uid"]] = owned_job(whole)
        self._known[namespace, run] = jobs
        return {job.name: job for job in jobs.values()}, len(news) > _AT_ONCE


def _same(before: OwnedJob | None, listed: _Listed) -> bool:
    """Whether it is known how the Job stands now."""
    return before is not None and before.version == listed.version
