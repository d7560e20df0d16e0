"""The endpoint's own metrics, in Prometheus's format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The metrics of one endpoint."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.requests = Counter(
            "vitriton_api_requests",
            "The number of answered requests.",
            ["route", "status"],
            registry=self._registry,
        )
        self.seconds = Histogram(
            "vitriton_api_request_seconds",
            "The time from a request's headers to its answer.",
            ["route"],
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self.inputs = Counter(
            "vitriton_api_inputs",
            "The number of images and texts that were embedded.",
            ["model", "modality"],
            registry=self._registry,
        )
        self.tokens = Counter(
            "vitriton_api_tokens",
            "The number of tokens of the texts that were embedded.",
            ["model"],
            registry=self._registry,
        )
        self.in_flight = Gauge(
            "vitriton_api_in_flight_requests",
            "The number of requests that are being answered.",
            registry=self._registry,
        )
        self.arriving = Gauge(
            "vitriton_api_arriving_requests",
            "The number of requests whose bodies are still arriving.",
            registry=self._registry,
        )
        self.held = Gauge(
            "vitriton_api_held_bytes", "The size of the bodies of all these requests.", registry=self._registry
        )
        self.ready = Gauge(
            "vitriton_api_ready", "Whether the models can be used, and no stop has begun.", registry=self._registry
        )

    def text(self) -> bytes:
        """All metrics, as Prometheus reads them."""
        return generate_latest(self._registry)
