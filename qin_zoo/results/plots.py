"""The pictures of a leaderboard, to be drawn in a style of :mod:`qin_zoo.pages.plots`."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qin_zoo.metrics import mode_of
from qin_zoo.pages.plots import REFERENCE, legend_below, new_figure, wrapped
from qin_zoo.results.lines import Board, Line, about_slices, paired, variation_names
from qin_zoo.results.statistics import deviation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DOTS = "mean with its 95 % interval, and single seeds"


@dataclass(frozen=True)
class Plot:
    """A figure with what stands above it; ``key`` names its file."""

    key: str
    title: str
    told: str
    figure: Figure


def plots(board: Board) -> Iterator[Plot]:
    """Every picture that a board has numbers for."""
    metric, ranked = board.monitor, board.ranked()
    if len(ranked) > 1:
        told = f"{metric}: {_DOTS}; the dashed line is the first. Differences on the same rows are surer than these."
        yield Plot("models", "Models", told, _dots(ranked, metric, [line.name for line in ranked]))
        better = "up" if mode_of(metric) == "max" else "down"
        told = f"{metric} against the seconds of a training; {better} and left is better."
        with _named(3.4) as (figure, ax):
            _draw_cost(ax, ranked, metric)
        yield Plot("cost", "What it costs", told, figure)
    if any(len(e.curve) > 1 for line in ranked for e in line.entries):
        told = "The monitored metric on the validation rows after each evaluation, mean over seeds."
        with _named(3.4) as (figure, ax):
            _draw_curves(ax, ranked)
        yield Plot("curves", "Training", told, figure)
    for experiment, lines in board.variations().items():
        names = variation_names(lines)
        told = f"{metric}: {_DOTS}; the dashed line is {names[0]}."
        figure = _dots(lines, metric, names)
        yield Plot(f"variations_{experiment}", f"{experiment} in variations", told, figure)
    tested, names = board.tests()
    if tested:
        told = f"Change of {metric} when the same weights score changed data."
        with _named(0.34 * len(names) + 1.6) as (figure, ax):
            _draw_tests(ax, tested, names, metric)
        yield Plot("tests", "Harder data at the test", told, figure)
    for kind, (lines, parts) in board.slices().items():
        title, rows_of = about_slices(kind)
        with _named(3.4) as (figure, ax):
            _draw_slices(ax, lines, kind, parts, metric)
        yield Plot(kind, title, f"{metric} of {rows_of}.", figure)
    if calibrated := [line for line in ranked if any(e.calibration for e in line.entries)]:
        told = "Share of clicks against the mean prediction, in bins of equally many rows, equal scores in one; "
        told += "on the diagonal is honest."
        with _named(3.6) as (figure, ax):
            ax.plot([0, 1], [0, 1], **REFERENCE)
            for i, line in enumerate(calibrated):
                curve = next(e.calibration for e in line.entries if e.calibration)
                ax.plot(curve["predicted"], curve["clicked"], **_look(i), label=line.name)
            ax.set(xlabel="predicted", ylabel="clicked")
        yield Plot("calibration", "Calibration", told, figure)


@contextmanager
def _named(height: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure whose series are named below it."""
    figure, ax = new_figure(5.4, height)
    yield figure, ax
    legend_below(figure)


def _look(place: int) -> dict[str, str]:
    """Colour and mark of a series: where there are more than colours, these come again with another mark."""
    from matplotlib import rcParams

    return {"color": f"C{place}", "marker": "os^Dv"[place // len(rcParams["axes.prop_cycle"]) % 5]}


def _draw_cost(ax: Axes, lines: list[Line], metric: str) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for i, line in enumerate(lines):
        ax.plot(line.cost(), line.mean(metric), **_look(i), linestyle="", markersize=6, label=line.name)
    ax.set_xscale("log")
    ax.margins(0.1)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="seconds of a training", ylabel=metric)


def _draw_curves(ax: Axes, lines: list[Line]) -> None:
    for i, line in enumerate(lines):
        curves = [e.curve for e in line.entries if e.curve]
        if not curves:  # a baseline
            continue
        longest = max(map(len, curves))
        mean = [statistics.fmean(c[min(i, len(c) - 1)] for c in curves) for i in range(longest)]
        ax.plot(range(1, longest + 1), mean, **_look(i), label=line.name)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="evaluation", ylabel="monitored metric")


def _draw_tests(ax: Axes, lines: list[Line], names: list[str], metric: str) -> None:
    step = 0.6 / len(lines)
    for i, line in enumerate(lines):
        changes = [paired(line.tested(name, metric), line.metric(metric)) for name in names]
        points = [(y, statistics.fmean(c), deviation(c)) for y, c in enumerate(changes) if c]
        if points:
            y, mean, spread = map(np.array, zip(*points))
            place = y + (i - (len(lines) - 1) / 2) * step
            ax.errorbar(mean, place, xerr=spread, fmt="o", color=f"C{i}", label=line.name)
    ax.axvline(0, **REFERENCE)
    _levels(ax, names, f"change of {metric}")


def _draw_slices(ax: Axes, lines: list[Line], kind: str, parts: list[str], metric: str) -> None:
    for i, line in enumerate(lines):
        values = [list(line.sliced(kind, part, metric).values()) for part in parts]
        points = [(x, statistics.fmean(v), deviation(v)) for x, v in enumerate(values) if v]
        if points:
            x, mean, spread = zip(*points)
            ax.errorbar(x, mean, yerr=spread, marker="o", color=f"C{i}", label=line.name)
    ax.set_xticks(range(len(parts)), parts)
    ax.set(xlabel=about_slices(kind)[0].lower(), ylabel=metric)


def _dots(lines: list[Line], metric: str, names: list[str]) -> Figure:
    figure, ax = new_figure(5.4, 0.34 * len(lines) + 1.1)
    for y, line in enumerate(lines):
        values = list(line.metric(metric).values())
        ax.plot(values, [y] * len(values), "o", color="C8")
        estimate = line.estimate(metric)
        ax.errorbar(line.mean(metric), y, xerr=estimate and estimate.half, fmt="D", color="C0", markersize=5)
    ax.axvline(lines[0].mean(metric), **REFERENCE)
    _levels(ax, names, metric)
    return figure


def _levels(ax: Axes, names: list[str], x: str) -> None:
    """Names from above downwards, values to the right."""
    ax.set_yticks(range(len(names)), [wrapped(name) for name in names])
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.locator_params(axis="x", nbins=6)
    ax.set_xlabel(x)
