"""How the time of a step grows with batch size, history length, catalogue size and embedding size."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from qin_zoo.bench.contenders import copying, product, wait
from qin_zoo.bench.synthetic import DISTINCT, random_batch
from qin_zoo.bench.traffic import Traffic
from qin_zoo.data.dataset import open_feature_map
from qin_zoo.experiment.prepare import prepare
from qin_zoo.pages.plots import picture
from qin_zoo.registry import get_model
from qin_zoo.training.memory import keep_freed_memory

AXES = {
    "batch_size": (512, 1024, 2048, 4096, 8192),
    "max_len": (8, 16, 32, 64, 128),
    "items": (20_000, 50_000, 91_717, 200_000, 500_000),
    "embedding_dim": (16, 32, 64, 128),
}
_LABELS = {"batch_size": "rows in a batch", "max_len": "items in a history", "items": "items in the catalogue"}


@dataclass(frozen=True)
class Point:
    """Seconds of a step at one setting.

    Attributes:
        axis, value: what was varied, and its value.
        rows: rows in the batch.
        gradient: seconds of forward and backward pass.
        update: seconds of penalty, clipping and optimiser, which pass over every weight.
        score: seconds of a scoring pass.
        step_products: seconds that the matrix products of a training step take alone, at the rate at which the machine
            multiplied in between.
        score_products: the same of a scoring pass.
        step_passes: seconds that a training step takes to read and write what its other operations do, at the rate at
            which the machine copied in between; shorter where a cache holds it.
        score_passes: the same of a scoring pass.
    """

    axis: str
    value: int
    rows: int
    gradient: float
    update: float
    score: float
    step_products: float
    score_products: float
    step_passes: float
    score_passes: float

    @property
    def step(self) -> float:
        """Seconds of a training step."""
        return self.gradient + self.update


def grow(
    expid: str,
    axes: Mapping[str, Iterable[int]],
    repeats: int = 3,
    gpu: int = -1,
    overrides: Iterable[str] = (),
    progress: Callable[[str], None] = lambda text: None,
) -> list[Point]:
    """Measures a model's step on random batches, one axis varied at a time around the experiment's own setting.

    Args:
        axes: of :data:`AXES`, each with its values.
    """
    points = []
    for axis, values in axes.items():
        for value in values:
            progress(f"{axis} {value:,}")
            points.append(_point(expid, axis, value, repeats, gpu, list(overrides)))
    return points


def _point(expid: str, axis: str, value: int, repeats: int, gpu: int, overrides: list[str]) -> Point:
    if axis != "items":
        overrides = [*overrides, f"{axis}={value}"]
    params = prepare(expid, gpu=gpu, overrides=overrides).params
    feature_map = open_feature_map(params)
    if axis == "items":
        for spec in feature_map.features.values():
            if spec.get("source") == "item" and spec["type"] == "categorical":
                spec["vocab_size"] = value + 1
    keep_freed_memory()
    model = get_model(params["model"])(feature_map, **params)
    model._max_gradient_norm = params["max_gradient_norm"]
    batch = random_batch(feature_map, params["batch_size"], params["max_len"], DISTINCT, model.device)
    multiply, flops = product(params.get("precision", "fp32"), model.device)
    seconds: dict[str, list[float]] = {"gradient": [], "update": [], "score": [], "product": [], "copy": []}
    flops_of: Counter[str] = Counter()
    bytes_of: Counter[str] = Counter()
    copy, moved = copying(model.device)

    def timed(part: str, function: Callable[[], object]) -> None:
        wait(model.device)
        first = not seconds[part]  # slower anyway
        counter, traffic = FlopCounterMode(display=False), Traffic()
        with contextlib.ExitStack() as stack:
            for count in (counter, traffic) if first else ():
                stack.enter_context(count)
            begin = time.perf_counter()
            function()
        wait(model.device)
        seconds[part].append(time.perf_counter() - begin)
        if first:
            flops_of[part], bytes_of[part] = counter.get_total_flops(), traffic.bytes

    def update() -> None:
        penalty = model.regularization_loss()
        if isinstance(penalty, torch.Tensor):
            penalty.backward()
        model._update()

    for _ in range(repeats + 1):
        model.train()
        timed("gradient", lambda: model.add_loss(model.forward(batch), model.get_labels(batch)).backward())
        timed("update", update)
        model.eval()
        with torch.no_grad():
            timed("score", lambda: model.forward(batch))
        timed("product", multiply)
        timed("copy", copy)
    medians = {part: statistics.median(values[1:]) for part, values in seconds.items()}
    alone = medians.pop("product") / flops, medians.pop("copy") / moved
    bounds = [
        each * count
        for each, of in zip(alone, (flops_of, bytes_of))
        for count in (of["gradient"] + of["update"], of["score"])
    ]
    return Point(axis, value, len(batch), *medians.values(), *bounds)


def draw_growth(points: list[Point], path: Path, title: str) -> None:
    """Draws seconds of a step and throughput against each axis, to a PNG file."""
    from matplotlib.ticker import NullFormatter

    axes = list(dict.fromkeys(p.axis for p in points))
    with picture(path, 3.9 * len(axes), 6.2, title) as figure:
        for (top, below), axis in zip(figure.subplots(2, len(axes), squeeze=False).T, axes):
            mine = [p for p in points if p.axis == axis]
            values = [p.value for p in mine]
            seconds = {
                "forward and backward": [p.gradient for p in mine],
                "penalty, clipping, optimiser": [p.update for p in mine],
                "scoring": [p.score for p in mine],
            }
            rates = {"training": [p.rows / p.step for p in mine], "scoring": [p.rows / p.score for p in mine]}
            for ax, label, series in ((top, "seconds a step", seconds), (below, "rows a second", rates)):
                for name, numbers in series.items():
                    ax.plot(values, numbers, marker="o", label=name)
                ax.set(xscale="log", yscale="log", xlabel=_LABELS.get(axis, axis))
                ax.set_xticks(values, [f"{v:,}" for v in values])
                ax.xaxis.set_minor_formatter(NullFormatter())
                if axis == axes[0]:
                    ax.set_ylabel(label)
                    ax.legend()
