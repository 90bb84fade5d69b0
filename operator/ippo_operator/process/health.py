"""Probes that tell the truth, and metrics, over HTTP.

/livez    whether a restart would help: a watch that misses changes, a pass that hangs, a lease loop that stopped
/readyz   whether this process does its part: the API server answers it, and it acts or stands by
/metrics  for Prometheus
"""

from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from ippo_operator.process.metrics import CONTENT_TYPE, Metrics
from ippo_operator.process.workers import Workers


@dataclass(frozen=True)
class Limits:
    """In seconds."""

    stale: float = 180.0
    """A watch may miss something for so long."""
    hanging: float = 600.0
    """A pass may take so long."""
    unanswered: float = 60.0
    """The API server may be silent for so long before this process is not ready."""


class Health:
    """Judges the workers.

    Args:
        workers: to be judged.
        failure: why watches do not run; None where they do.
        limits: of what is tolerable.
    """

    def __init__(self, workers: Workers, failure: Callable[[], str | None], limits: Limits | None = None) -> None:
        self._workers = workers
        self._failure = failure
        self._limits = limits or Limits()

    @property
    def unwatched(self) -> str | None:
        """Why not all is watched; None where it is."""
        return self._failure() or self._workers.unlisted

    def report(self) -> dict[str, object]:
        """What the verdicts are made of, for people."""
        workers = self._workers
        return {
            "leader": workers.lease.held,
            "identity": workers.lease.identity,
            "knownRuns": len(workers.index.versions()),
            "queueDepth": workers.queue.depth,
            "lastWatchEventAgeSeconds": round(workers.index.event_age, 1),
            "unwatched": self.unwatched,
            "watchStaleSeconds": round(workers.index.stale_for, 1),
            "longestPassSeconds": round(workers.queue.oldest_work, 1),
            "lastAnswerAgeSeconds": _rounded(workers.answer_age),
        }

    def unhealthy(self) -> str | None:
        """Why a restart would help; None if it would not."""
        workers = self._workers
        if workers.failed.done():
            return "a loop of the operator ended"
        if workers.index.stale_for > self._limits.stale:
            return f"the watches have been missing changes for {workers.index.stale_for:.0f} s"
        if workers.queue.oldest_work > self._limits.hanging:
            return f"a pass has been going on for {workers.queue.oldest_work:.0f} s"
        return None

    def unready(self) -> str | None:
        """Why this process does not do its part; None if it does, also where it stands by."""
        age = self._workers.answer_age
        if age is None:
            return "the API server has not answered yet"
        if age > self._limits.unanswered:
            return f"the API server has not answered for {age:.0f} s"
        if self.unwatched is not None:
            return f"not all is watched: {self.unwatched}; is the CRD installed, and may this service account watch?"
        return self.unhealthy()


def application(health: Health, metrics: Metrics) -> web.Application:
    """The HTTP server's application."""

    def verdict(problem: str | None) -> web.Response:
        body = {"ok": problem is None, "problem": problem, **health.report()}
        return web.json_response(body, status=200 if problem is None else 503)

    async def livez(_: web.Request) -> web.Response:
        return verdict(health.unhealthy())

    async def readyz(_: web.Request) -> web.Response:
        return verdict(health.unready())

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    server = web.Application()
    server.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", scrape)])
    return server


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
