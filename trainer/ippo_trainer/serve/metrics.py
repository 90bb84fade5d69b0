"""Prometheus metrics of a server. No label grows with the traffic."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.registry import REGISTRY

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class ServerMetrics:
    """What /metrics shows.

    Args:
        digest, name: of the policy.
        waiting: asked at every scrape.
    """

    def __init__(self, digest: str, name: str, waiting: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("ippo_serve_requests", "Chat requests by HTTP status", ["status"], registry=registry)
        self.seconds = Histogram(
            "ippo_serve_request_seconds", "From a chat request to its last byte", buckets=_SECONDS, registry=registry
        )
        self.first_token = Histogram(
            "ippo_serve_first_token_seconds",
            "From a chat request to its first token",
            buckets=_SECONDS,
            registry=registry,
        )
        self.tokens = Counter("ippo_serve_tokens", "Tokens read and made", ["kind"], registry=registry)
        self.in_flight = Gauge("ippo_serve_requests_in_flight", "Chat requests being answered", registry=registry)
        self.ready = Gauge("ippo_serve_ready", "1 while requests are taken", registry=registry)
        queue = Gauge("ippo_serve_requests_waiting", "Chat requests that wait for the engine", registry=registry)
        queue.set_function(waiting)
        policy = Gauge("ippo_serve_policy_info", "What is served", ["digest", "run"], registry=registry)
        policy.labels(digest, name).set(1)

    def log(self) -> "LogMetrics":
        """Those of the log of suggestions; asked for once, by a server that has one."""
        return LogMetrics(self._registry)

    def render(self) -> bytes:
        """Prometheus' text format; the process's own metrics, and an engine's, are in it."""
        return generate_latest(self._registry) + generate_latest(REGISTRY)


class LogMetrics:
    """What /metrics shows of the log of suggestions."""

    def __init__(self, registry: CollectorRegistry) -> None:
        records = Counter(
            "ippo_serve_log_records", "Suggestions by what became of their log", ["outcome"], registry=registry
        )
        self.written, self.dropped = (records.labels(outcome) for outcome in ("written", "dropped"))
        self.segments = Counter("ippo_serve_log_segments", "Segments of the log in the store", registry=registry)
        self.failures = Counter("ippo_serve_log_failures", "Writes that the store refused", registry=registry)
        self.waiting = Gauge("ippo_serve_log_waiting_bytes", "Bytes that are not in the store yet", registry=registry)
