"""What ``/metrics`` tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The metrics of one service, in a registry of their own.

    Args:
        waiting: gives the number of requests that wait for a thread.
        model: gives the model in use, ``name`` and ``fingerprint``.
    """

    def __init__(self, waiting: Callable[[], int], model: Callable[[], dict[str, str]]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "qin_zoo_requests", "Answered requests.", ["endpoint", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "qin_zoo_request_seconds",
            "From a request's headers to its answer.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.scoring = Histogram(
            "qin_zoo_scoring_seconds",
            "Reading, scoring and writing one request in its thread.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch = Histogram(
            "qin_zoo_batch_size",
            "Requests a thread took together.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        self.candidates = Counter("qin_zoo_candidates", "Scored candidates.", registry=self.registry)
        self.unknown = Counter(
            "qin_zoo_unknown_items", "Items of requests that the model does not know.", registry=self.registry
        )
        self.in_flight = Gauge("qin_zoo_in_flight", "Requests that are being answered.", registry=self.registry)
        self.reloads = Counter("qin_zoo_reloads", "Tries to load the file anew.", ["result"], registry=self.registry)
        Gauge("qin_zoo_waiting", "Requests that wait for a thread.", registry=self.registry).set_function(waiting)
        self.registry.register(_ModelInfo(model))
        ProcessCollector(registry=self.registry)


class _ModelInfo:
    """The model in use at the moment somebody asks."""

    def __init__(self, model: Callable[[], dict[str, str]]) -> None:
        self._model = model

    def collect(self):
        from prometheus_client.core import InfoMetricFamily

        yield InfoMetricFamily("qin_zoo_model", "The model in use.", self._model())
