"""The pictures of a leaderboard, to be drawn in a style of :mod:`qin_zoo.pages.plots`."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qin_zoo.metrics import mode_of
from qin_zoo.pages.plots import REFERENCE, legend_below, new_figure
from qin_zoo.results.lines import Board, Line, about_slices, paired, parts_of
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
        yield Plot("cost", "What it costs", told, _cost(ranked, metric))
    if any(len(e.curve) > 1 for line in ranked for e in line.entries):
        told = "The monitored metric on the validation rows after each evaluation, mean over seeds."
        yield Plot("curves", "Training", told, _curves(ranked))
    for experiment, lines in board.variations().items():
        told = f"{metric}: {_DOTS}; the dashed line is {lines[0].first.variation}."
        figure = _dots(lines, metric, [line.first.variation for line in lines])
        yield Plot(f"variations_{experiment}", f"{experiment} in variations", told, figure)
    if tested := [line for line in board.lines if any(e.tests for e in line.entries)]:
        told = f"Change of {metric} when the same weights score changed data."
        yield Plot("tests", "Harder data at the test", told, _tests(tested, metric))
    for kind in dict.fromkeys(kind for line in board.lines for e in line.entries for kind in e.slices):
        title, rows_of = about_slices(kind)
        told = f"{metric} of {rows_of}."
        lines = [line for line in board.lines if any(kind in e.slices for e in line.entries)]
        yield Plot(kind, title, told, _slices(lines, kind, metric))
    if calibrated := [line for line in ranked if any(e.calibration for e in line.entries)]:
        told = "Share of clicks against the mean prediction, in bins of equally many rows, equal scores in one; "
        told += "on the diagonal is honest."
        yield Plot("calibration", "Calibration", told, _calibration(calibrated))


def _cost(lines: list[Line], metric: str) -> Figure:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure, ax = new_figure(5.4, 3.4)
    for line in lines:
        ax.plot(line.cost(), line.mean(metric), "o", markersize=6, label=line.name)
    ax.set_xscale("log")
    ax.margins(0.1)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="seconds of a training", ylabel=metric)
    legend_below(figure)
    return figure


def _curves(lines: list[Line]) -> Figure:
    figure, ax = new_figure(5.4, 3.4)
    for line in lines:
        curves = [e.curve for e in line.entries if e.curve]
        longest = max(map(len, curves), default=0)
        mean = [statistics.fmean(c[min(i, len(c) - 1)] for c in curves) for i in range(longest)]
        ax.plot(range(1, longest + 1), mean, marker="o", label=line.name)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="evaluation", ylabel="monitored metric")
    legend_below(figure)
    return figure


def _dots(lines: list[Line], metric: str, names: list[str]) -> Figure:
    figure, ax = new_figure(5.4, 0.34 * len(lines) + 1.1)
    for y, line in enumerate(lines):
        values = list(line.metric(metric).values())
        ax.plot(values, [y] * len(values), "o", color="C8")
        estimate = line.estimate(metric)
        error = estimate.half if estimate and estimate.half == estimate.half else None
        ax.errorbar(line.mean(metric), y, xerr=error, fmt="D", color="C0", markersize=5)
    ax.axvline(lines[0].mean(metric), **REFERENCE)
    _levels(ax, names, metric)
    return figure


def _tests(lines: list[Line], metric: str) -> Figure:
    names = list(dict.fromkeys(name for line in lines for e in line.entries for name in e.tests))
    figure, ax = new_figure(5.4, 0.34 * len(names) + 1.6)
    step = 0.6 / max(len(lines), 1)
    for i, line in enumerate(lines):
        own = line.metric(metric)
        for y, name in enumerate(names):
            change = paired(line.by_seed(lambda e, n=name: e.tests.get(n, {}).get(metric)), own)
            if change:
                place = y + (i - (len(lines) - 1) / 2) * step
                spread = deviation(change)
                error = spread if spread == spread else None
                label = line.name if name == names[0] else None
                mean = statistics.fmean(change)
                ax.errorbar(mean, place, xerr=error, fmt="o", color=f"C{i}", label=label)
    ax.axvline(0, **REFERENCE)
    _levels(ax, names, f"change of {metric}")
    legend_below(figure)
    return figure


def _slices(lines: list[Line], kind: str, metric: str) -> Figure:
    figure, ax = new_figure(5.4, 3.4)
    parts = parts_of(lines, kind)
    for i, line in enumerate(lines):
        points = []
        for x, part in enumerate(parts):
            values = list(line.by_seed(lambda e, p=part: e.slices.get(kind, {}).get(p, {}).get(metric)).values())
            if values:
                spread = deviation(values)
                points.append((x, statistics.fmean(values), spread if spread == spread else 0.0))
        if points:
            x, mean, spread = zip(*points)
            ax.errorbar(x, mean, yerr=spread, marker="o", color=f"C{i}", label=line.name)
    ax.set_xticks(range(len(parts)), parts)
    ax.set(xlabel=about_slices(kind)[0].lower(), ylabel=metric)
    legend_below(figure)
    return figure


def _calibration(lines: list[Line]) -> Figure:
    figure, ax = new_figure(5.4, 3.6)
    ax.plot([0, 1], [0, 1], **REFERENCE)
    for line in lines:
        curve = next(e.calibration for e in line.entries if e.calibration)
        ax.plot(curve["predicted"], curve["clicked"], marker="o", label=line.name)
    ax.set(xlabel="predicted", ylabel="clicked")
    legend_below(figure)
    return figure


def _levels(ax: Axes, names: list[str], x: str) -> None:
    """Names from above downwards, values to the right."""
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.locator_params(axis="x", nbins=6)
    ax.set_xlabel(x)
