"""What ``/metrics`` tells Prometheus. All workers of a service count in one piece of shared memory."""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate, product

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
    """A counter or gauge of one worker and all the others; ``kind`` tells Prometheus, ``labels`` are name -> values."""

    def __init__(self, metrics: Metrics, kind: type, name: str, help: str, **labels: Sequence):
        self._metrics, self._family = metrics, partial(kind, name, help, labels=[*labels])
        self._cells = {values: metrics.take(1) for values in product(*labels.values())}

    def add(self, amount: float = 1, *labels) -> None:
        """Adds to this worker's value."""
        self._metrics.own[self._cells[labels]] += amount

    def set(self, amount: float) -> None:
        """Sets this worker's value."""
        self._metrics.own[self._cells[()]] = amount

    def collect(self) -> Metric:
        family = self._family()
        for labels, cell in self._cells.items():
            total = self._metrics.total(cell)
            if total or not labels:
                family.add_metric(list(map(str, labels)), total)
        return family


class _Histogram:
    """A histogram of one worker and all the others, by model where there are some; a bucket without bound is added."""

    def __init__(self, metrics: Metrics, name: str, help: str, bounds: Sequence[float], models: Sequence[str] = ("",)):
        self._metrics, self.bounds = metrics, bounds
        self._family = partial(HistogramMetricFamily, name, help, labels=["model"] if "" not in models else [])
        self._cells = {model: metrics.take(len(bounds) + 2) for model in models}  # buckets, the last one open; sum

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

    def collect(self) -> Metric:
        family, bounds = self._family(), [*map(str, map(float, self.bounds)), "+Inf"]
        for model, first in self._cells.items():
            *counts, total = map(self._metrics.total, range(first, first + len(bounds) + 1))
            family.add_metric([model] if model else [], [*zip(bounds, accumulate(counts))], total)
        return family


class Metrics:
    """The metrics of one service.

    A worker adds to cells of its own, so that no two write one value; whichever is asked tells the sums. What a worker
    that crashed had counted stays.

    Args:
        workers: how many processes count; they are forked after this is made.
        used: gives ``name`` and ``fingerprint`` of those in use.

    Attributes:
        own: (width,) float64, this worker's cells.
    """

    def __init__(self, workers: int, models: Sequence[str], used: Callable[[], list[dict[str, str]]]) -> None:
        self._width, self._used = 0, used
        counter, gauge = partial(_Family, self, CounterMetricFamily), partial(_Family, self, GaugeMetricFamily)
        histogram = partial(_Histogram, self)
        self.requests = counter("qin_zoo_requests", "Answered requests.", endpoint=ENDPOINTS, status=STATUSES)
        self.seconds = histogram("qin_zoo_request_seconds", "From a request's headers to its answer.", _SECONDS)
        self.scoring = histogram("qin_zoo_scoring_seconds", "Reading, scoring, writing one request.", _SECONDS)
        self.candidates = counter("qin_zoo_candidates", "Scored candidates.")
        self.unknown = counter("qin_zoo_unknown_items", "Items of requests that the model does not know.")
        self.in_flight = gauge("qin_zoo_in_flight", "Requests that are being answered.")
        self.waiting = gauge("qin_zoo_waiting", "Requests that wait to be scored.")
        self.reloads = counter("qin_zoo_reloads", "Tries to load the file anew.", result=RELOADS)
        self.events = counter("qin_zoo_events", "Events added to histories.")
        self.users = counter("qin_zoo_users", "Users whose history was looked up.", known=("yes", "no"))
        self.scores = histogram("qin_zoo_score", "Scores, by model.", SCORES, models)
        self.shadows = counter("qin_zoo_shadow_requests", "Requests that shadows scored.", result=SHADOWS)
        self._families = [one for one in vars(self).values() if isinstance(one, (_Family, _Histogram))]
        self._pid = self.take(1)
        self._cells = memoryview(mmap.mmap(-1, 8 * workers * self._width)).cast("d")
        self._registry = CollectorRegistry()
        self._registry.register(self)
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

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The text for Prometheus and its content type, as a client accepts them."""
        encode, kind = choose_encoder(accept)
        return encode(self._registry), kind

    def collect(self) -> Iterator[Metric]:
        """What Prometheus is told: counts, the models that the answering worker uses, and each worker's process."""
        yield from (family.collect() for family in self._families)
        used = InfoMetricFamily("qin_zoo_model", "The models in use.", labels=("name",))
        for model in self._used():
            used.add_metric([model["name"]], {"fingerprint": model["fingerprint"]})
        yield used
        processes: dict[str, Metric] = {}  # memory, processor time and open files
        for number, pid in enumerate(int(pid) for pid in self._cells[self._pid :: self._width] if pid):
            for family in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():
                found = processes.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    found.add_sample(sample.name, {**sample.labels, "worker": str(number)}, sample.value)
        yield from processes.values()
