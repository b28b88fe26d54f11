"""How long a request takes: the exported model on ONNX Runtime beside the plain eager model on the same rows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from qin_zoo.bench.plain import make_plain
from qin_zoo.bench.synthetic import random_batch
from qin_zoo.data.dataset import has_item_table
from qin_zoo.errors import ConfigError
from qin_zoo.experiment.prepare import build_model, prepare
from qin_zoo.export.export import request_rows
from qin_zoo.export.onnx import to_onnx
from qin_zoo.export.request import RequestModel
from qin_zoo.feature_types import type_of
from qin_zoo.models import ZooModel
from qin_zoo.pages.plots import picture
from qin_zoo.serving.bundle import seal
from qin_zoo.serving.items import ITEMS
from qin_zoo.serving.scorer import Scorer

CANDIDATES, THREADS = (1, 10, 100, 1000), (1, 2)
_KINDS = 16  # different requests of each size
_LEAST = 5  # requests to the plain model
_WARM = 5


@dataclass(frozen=True)
class Latency:
    """Seconds of a request of one size.

    Attributes:
        model: ``exported`` or ``plain``.
        threads, candidates: of the request.
        requests: how many were timed.
        p50, p95, p99: seconds.
        difference: largest difference of a score from the plain model's; None without it.
    """

    model: str
    threads: int
    candidates: int
    requests: int
    p50: float
    p95: float
    p99: float
    difference: float | None = None


def measure_latency(
    expid: str,
    candidates: Iterable[int] = CANDIDATES,
    threads: Iterable[int] = THREADS,
    *,
    requests: int = 200,
    plain: bool = True,
    plain_seconds: float = 10,
    overrides: Iterable[str] = (),
    plugins: Iterable[Path] = (),
    progress: Callable[[str], None] = lambda text: None,
) -> list[Latency]:
    """Times random requests with untrained weights and random items, histories of full length.

    Args:
        expid: experiment on a dataset with an item table. Its data are read only for sizes that the configuration
            leaves to them.
        candidates, threads: numbers of them.
        requests: requests to the exported model, of each kind.
        plain: also time the plain eager model; its rows are made ready before.
        plain_seconds: no more requests of a kind to the plain model after so long, but five at least.
        overrides, plugins: as in ``prepare``.

    Raises:
        ConfigError: the dataset has no item table.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.onnx"
        model, items, max_len = export_untrained(expid, path, overrides, plugins)
        reference = make_plain(model) if plain else None
        before, measured = torch.get_num_threads(), []
        try:
            for count in threads:
                torch.set_num_threads(count)
                scorer = Scorer(path, threads=count)
                for rows in candidates:
                    progress(f"{rows} candidates, {count} threads")
                    kinds = [random_request(scorer, rows, max_len, seed) for seed in range(_KINDS)]
                    measured += _measure(scorer, reference, items, max_len, kinds, count, requests, plain_seconds)
        finally:
            torch.set_num_threads(before)
    return measured


def export_untrained(
    expid: str, path: Path, overrides: Iterable[str] = (), plugins: Iterable[Path] = ()
) -> tuple[ZooModel, dict, int]:
    """Writes an export with untrained weights and random items; the model, its items and the length of a history.

    Args:
        expid, overrides, plugins: as :func:`measure_latency` has them.
        path: file to write.

    Raises:
        ConfigError: the dataset has no item table.
        DataError: a size is missing, and so are the data.
    """
    prepared = prepare(expid, overrides=(*overrides, "precision=fp32", "compile=false"), plugins=plugins)
    if not has_item_table(prepared.params):
        raise ConfigError(f"{expid} has no item table: only datasets with one can be exported.")
    try:
        model = build_model(prepared).eval()
    except ConfigError:  # sizes that the configuration leaves to the data
        model = build_model(prepared, prepared.open_dataset()).eval()
    max_len = prepared.params.get("max_len", 100)
    items = random_batch(model.feature_map, 1, max_len).items
    request = RequestModel(model, items)
    manifest = {"name": expid, "task": "latency", "dataset_id": "random", **request.describe(items, max_len)}
    graph, manifest["chunk"] = to_onnx(request, *request.tracing(manifest["inputs"]), max_len)
    path.write_bytes(seal(graph, manifest)[0])
    return model, items, max_len


def random_request(scorer: Scorer, rows: int, max_len: int, seed: int) -> dict:
    """The arguments of ``scorer.score`` with random ids: ``max_len`` of the history, ``rows`` candidates."""
    g = np.random.default_rng(seed)
    history = g.integers(1, scorer.items, max_len)
    if scorer.beside:
        beside = {feature["name"]: type_of(feature).random(max_len, feature, g) for feature in scorer.beside}
        history = {ITEMS: history, **beside}
    return {
        "history": history,
        "candidates": g.integers(1, scorer.items, rows),
        "context": {feature["name"]: type_of(feature).random(rows, feature, g) for feature in scorer.inputs},
    }


def _measure(scorer, reference, items, max_len, kinds, threads, requests, plain_seconds) -> list[Latency]:
    rows, fast, slow, difference = len(kinds[0]["candidates"]), [], [], 0.0
    for n in range(_WARM + requests):
        start = time.perf_counter()
        scorer.score(**kinds[n % _KINDS])
        fast.append(time.perf_counter() - start)
    measured = [Latency("exported", threads, rows, requests, *_percentiles(fast[_WARM:]))]
    if reference is None:
        return measured
    begin = time.perf_counter()
    for n in range(1 + requests):
        kind = kinds[n % _KINDS]
        batch = request_rows(items, **kind, max_len=max_len).triple()
        start = time.perf_counter()
        with torch.no_grad():
            scores = reference(batch)["y_pred"]
        slow.append(time.perf_counter() - start)
        if n < _KINDS:
            difference = max(difference, float(np.abs(scores.view(-1).numpy() - scorer.score(**kind)).max()))
        if n >= _LEAST and time.perf_counter() - begin > plain_seconds:
            break
    return [*measured, Latency("plain", threads, rows, len(slow) - 1, *_percentiles(slow[1:]), difference)]


def _percentiles(seconds: list[float]) -> list[float]:
    return np.percentile(seconds, [50, 95, 99]).tolist()


def draw_latency(measured: list[Latency], path: Path, title: str) -> None:
    """Draws p50 against candidates, up to p99 shaded, one panel for each number of threads, to a PNG file."""
    threads = list(dict.fromkeys(m.threads for m in measured))
    with picture(path, 4.6 * len(threads), 4, title) as figure:
        axes = figure.subplots(1, len(threads), sharey=True, squeeze=False)[0]
        for ax, count in zip(axes, threads):
            for model in dict.fromkeys(m.model for m in measured):
                mine = [m for m in measured if (m.model, m.threads) == (model, count)]
                rows, p50, p99 = zip(*((m.candidates, 1000 * m.p50, 1000 * m.p99) for m in mine))
                (line,) = ax.plot(rows, p50, marker="o", label=f"{model}, p50")
                ax.fill_between(rows, p50, p99, alpha=0.2, color=line.get_color(), label="to p99")
            ax.set(xscale="log", yscale="log", xlabel="candidates", title=f"{count} thread{'s' * (count > 1)}")
        axes[0].set_ylabel("milliseconds")
        axes[0].legend()
