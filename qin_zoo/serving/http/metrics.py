"""What ``/metrics`` tells Prometheus. All workers of a service count in one piece of shared memory."""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

ENDPOINTS = ("/", "/events", "/healthz", "/metrics", "/openapi.json", "/score", "/top", "other")
STATUSES = (200, 400, 401, 404, 405, 408, 413, 415, 422, 500, 503)
RELOADS = ("loaded", "unchanged", "refused")
SHADOWS = ("scored", "failed", "left out")
SCORES = tuple(n / 20 for n in range(1, 21))  # upper bounds of buckets of scores
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class _Family:
    """A counter or gauge of one worker and all the others.

    Args:
        metrics: where its values are.
        kind: how Prometheus is told.
        name, help: of the metric.
        labels: their names.
        values: of the labels, a tuple for each cell.
    """

    def __init__(self, metrics: Metrics, kind: type, name: str, help: str, labels=(), values=((),)):
        self._metrics, self._kind, self._told = metrics, kind, (name, help)
        self._labels = labels
        self._cells = {value: metrics.take(1) for value in values}

    def add(self, amount: float = 1, *labels) -> None:
        """Adds to this worker's value."""
        self._metrics.own[self._cells[labels]] += amount

    def set(self, amount: float, *labels) -> None:
        """Sets this worker's value."""
        self._metrics.own[self._cells[labels]] = amount

    def collect(self) -> Iterator[Metric]:
        family = self._kind(*self._told, labels=self._labels)
        for labels, cell in self._cells.items():
            total = self._metrics.total(cell)
            if total or not labels:
                family.add_metric([str(label) for label in labels], total)
        yield family


class _Histogram:
    """A histogram of one worker and all the others.

    Args:
        metrics: where its values are.
        name, help: of the metric.
        bounds: of the buckets, ascending; one without bound is added.
        values: of the label ``model``; without it there is no label.
    """

    def __init__(self, metrics: Metrics, name: str, help: str, bounds: Sequence[float], values: Sequence[str] = ("",)):
        self._metrics, self._told, self.bounds = metrics, (name, help), bounds
        self._cells = {value: metrics.take(len(bounds) + 2) for value in values}  # buckets, the last one open; sum

    def observe(self, value: float) -> None:
        """Counts one value."""
        first, cells = self._cells[""], self._metrics.own
        cells[first + bisect_left(self.bounds, value)] += 1
        cells[first + len(self.bounds) + 1] += value

    def add(self, counts: Sequence[int], total: float, model: str) -> None:
        """Counts many values: how many there are in each bucket, from the first one on, and their sum."""
        first, cells = self._cells[model], self._metrics.own
        for place, count in enumerate(counts):
            if count:
                cells[first + place] += count
        cells[first + len(self.bounds) + 1] += total

    def collect(self) -> Iterator[Metric]:
        labels = () if "" in self._cells else ("model",)
        family = HistogramMetricFamily(*self._told, labels=labels)
        for value, first in self._cells.items():
            buckets, seen = [], 0.0
            for place, bound in enumerate((*self.bounds, float("inf"))):
                seen += self._metrics.total(first + place)
                buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), seen))
            total = self._metrics.total(first + len(self.bounds) + 1)
            family.add_metric([value] if labels else [], buckets, total)
        yield family


class Metrics:
    """The metrics of one service.

    A worker adds to cells of its own, so that no two write one value; whichever is asked tells the sums. What a worker
    that crashed had counted stays.

    Args:
        workers: how many processes count; they are forked after this is made.
        models: their names.
        used: gives ``name`` and ``fingerprint`` of those in use.

    Attributes:
        own: (width,) float64, this worker's cells.
    """

    def __init__(
        self, workers: int = 1, models: Sequence[str] = (), used: Callable[[], list[dict[str, str]]] | None = None
    ) -> None:
        self._width = 0
        self.registry = CollectorRegistry()
        families = [
            requests := _Family(
                self, CounterMetricFamily, "qin_zoo_requests", "Answered requests.", ("endpoint", "status"),
                [(endpoint, status) for endpoint in ENDPOINTS for status in STATUSES],
            ),
            seconds := _Histogram(
                self, "qin_zoo_request_seconds", "From a request's headers to its answer.", _SECONDS
            ),
            scoring := _Histogram(self, "qin_zoo_scoring_seconds", "Reading, scoring, writing one request.", _SECONDS),
            candidates := _Family(self, CounterMetricFamily, "qin_zoo_candidates", "Scored candidates."),
            unknown := _Family(
                self, CounterMetricFamily, "qin_zoo_unknown_items", "Items of requests that the model does not know."
            ),
            in_flight := _Family(self, GaugeMetricFamily, "qin_zoo_in_flight", "Requests that are being answered."),
            waiting := _Family(self, GaugeMetricFamily, "qin_zoo_waiting", "Requests that wait to be scored."),
            reloads := _Family(
                self, CounterMetricFamily, "qin_zoo_reloads", "Tries to load the file anew.", ("result",),
                [(result,) for result in RELOADS],
            ),
            events := _Family(self, CounterMetricFamily, "qin_zoo_events", "Events added to histories."),
            users := _Family(
                self, CounterMetricFamily, "qin_zoo_users", "Users whose history was looked up.", ("known",),
                [("yes",), ("no",)],
            ),
            scores := _Histogram(self, "qin_zoo_score", "Scores, by model.", SCORES, [*models]),
            shadows := _Family(
                self, CounterMetricFamily, "qin_zoo_shadow_requests", "Requests that shadows scored.", ("result",),
                [(result,) for result in SHADOWS],
            ),
        ]  # fmt: skip
        self.requests, self.seconds, self.scoring = requests, seconds, scoring
        self.candidates, self.unknown, self.in_flight, self.waiting = candidates, unknown, in_flight, waiting
        self.reloads, self.events, self.users, self.scores, self.shadows = reloads, events, users, scores, shadows
        self._pid = self.take(1)
        self._cells = memoryview(mmap.mmap(-1, 8 * workers * self._width)).cast("d")
        for family in families:
            self.registry.register(family)
        if used is not None:
            self.registry.register(_ModelInfo(used))
        self.registry.register(_Processes(self))
        self.begin(0)

    def take(self, count: int) -> int:
        """The first of so many new cells of each worker."""
        self._width += count
        return self._width - count

    def begin(self, worker: int) -> None:
        """This process is the worker of that number, from 0 on; nothing of it is in flight."""
        self.own = self._cells[worker * self._width :][: self._width]
        self.in_flight.set(0)
        self.waiting.set(0)
        self.own[self._pid] = os.getpid()

    def total(self, cell: int) -> float:
        """A value, summed over the workers."""
        return sum(self._cells[cell :: self._width])

    @property
    def processes(self) -> list[int]:
        """The workers' process ids."""
        return [int(pid) for pid in self._cells[self._pid :: self._width] if pid]

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The text for Prometheus and its content type, as a client accepts them."""
        encode, kind = choose_encoder(accept)
        return encode(self.registry), kind


class _ModelInfo:
    """The models in use at the moment somebody asks, by the worker that answers."""

    def __init__(self, used: Callable[[], list[dict[str, str]]]) -> None:
        self._used = used

    def collect(self) -> Iterator[Metric]:
        family = InfoMetricFamily("qin_zoo_model", "The models in use.", labels=("name",))
        for model in self._used():
            family.add_metric([model["name"]], {"fingerprint": model["fingerprint"]})
        yield family


class _Processes:
    """Memory, processor time and open files of each worker."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for number, pid in enumerate(self._metrics.processes):
            for family in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():
                found = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    found.add_sample(sample.name, {**sample.labels, "worker": str(number)}, sample.value)
        yield from families.values()
