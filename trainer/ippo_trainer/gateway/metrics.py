"""Prometheus metrics of a gateway. No label grows with the traffic."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import REGISTRY, Collector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class GatewayMetrics:
    """What /metrics shows."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "ippo_gateway_requests", "Requests by operation and HTTP status", ["operation", "status"], registry=registry
        )
        self.seconds = Histogram(
            "ippo_gateway_request_seconds",
            "From a request to its last byte",
            ["operation"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.suggestions = Counter(
            "ippo_gateway_suggestions", "Suggestions by who was asked for them", ["arm"], registry=registry
        )
        self.fallbacks = Counter(
            "ippo_gateway_fallbacks", "Answers of another policy than the conversation's own", registry=registry
        )
        self.unanswered = Counter("ippo_gateway_unanswered", "Chat requests that no policy answered", registry=registry)
        self.unlogged = Counter("ippo_gateway_unlogged", "Answers that could not be logged", registry=registry)
        self.unknown = Counter(
            "ippo_gateway_unknown_reactions",
            "Reactions to suggestions that this gateway did not make",
            registry=registry,
        )
        self.in_flight = Gauge("ippo_gateway_requests_in_flight", "Requests under way", registry=registry)
        self.ready = Gauge("ippo_gateway_ready", "1 while requests are taken", registry=registry)
        self.stale = Gauge(
            "ippo_gateway_file_unreadable",
            "1 while a file says something that cannot be read, so that what was read before still holds",
            ["file"],
            registry=registry,
        )
        self.policies = Gauge("ippo_gateway_policy_info", "Who is asked", ["arm", "digest"], registry=registry)

    def watch(self, collector: Collector) -> None:
        """Shows what this collects, too."""
        self._registry.register(collector)

    def render(self) -> bytes:
        """Prometheus' text format; the process's own metrics are in it."""
        return generate_latest(self._registry) + generate_latest(REGISTRY)


def figure(name: str, text: str, value: float, counter: bool = False) -> Metric:
    """One figure for a collector."""
    family = CounterMetricFamily if counter else GaugeMetricFamily
    return family(name, text, value=value)
