"""Which Jobs of ended attempts have been kept for long enough. What a run has done is in its status, not in them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from ippo_operator.api.run_sections import Cleanup


@dataclass(frozen=True)
class EndedJob:
    """A job that is over."""

    name: str
    succeeded: bool
    ended_at: datetime


@dataclass(frozen=True)
class Expired:
    """What to delete now, and when to look again."""

    names: tuple[str, ...] = ()
    next_after: float | None = None
    """Seconds until the next one is due; None if none is left."""


def expired(ended: Iterable[EndedJob], active: str | None, cleanup: Cleanup, now: datetime) -> Expired:
    """The jobs to delete at `now`.

    Args:
        ended: jobs that are over.
        active: the attempt whose result is not recorded yet; its job stays.
        cleanup: how long they are kept, by outcome.
        now: the time.
    """
    dates = [(_due(job, cleanup), job.name) for job in ended if job.name != active]
    later = [due for due, _ in dates if due > now]
    names = tuple(name for due, name in sorted(dates) if due <= now)
    return Expired(names, (min(later) - now).total_seconds() if later else None)


def _due(job: EndedJob, cleanup: Cleanup) -> datetime:
    seconds = cleanup.succeeded_seconds if job.succeeded else cleanup.failed_seconds
    return job.ended_at + timedelta(seconds=seconds)
