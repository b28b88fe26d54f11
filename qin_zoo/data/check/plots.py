"""The plots of a check's page, to be drawn in a style of :mod:`qin_zoo.pages.plots`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qin_zoo.data.check.statistics import Statistics
from qin_zoo.pages.plots import REFERENCE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def figures_of(stats: Statistics) -> list[tuple[str, str, Figure]]:
    """``(title, what it shows, figure)`` of each plot that there are numbers for."""
    made = []
    if stats.lengths:
        text = "Share of each split's rows with at most so many items in their history."
        made.append(("History length by split", text, _draw(_lengths, stats)))
    if len(stats.held) > 1:
        text = "Share of the rows that the users with most rows have; on the diagonal all have alike."
        made.append(("Who the rows belong to", text, _draw(_held, stats)))
    if stats.per_user.sum():
        made.append(("Rows per user", "Users by their number of rows.", _draw(_per_user, stats)))
    if stats.popularity.size:
        text = "Rows of each item as target, the most frequent first; both axes logarithmic."
        made.append(("Item popularity", text, _draw(_popularity, stats)))
    if stats.by_popularity:
        text = "Share of clicks by the number of rows the target item has."
        made.append(("Click rate by popularity", text, _draw(_by_popularity, stats)))
    if stats.by_level:
        made.append(("Click rate by level", "Share of clicks by the target item's level.", _draw(_by_level, stats)))
    for name, norms in stats.norms.items():
        if norms.size:
            made.append((f"Norms of {name}", "Items by the norm of their embedding.", _draw(_norms, norms)))
    return made


def _draw(plot: object, data: object) -> Figure:
    figure, ax = new_figure()
    plot(ax, data)
    return figure


def _thousands(axis: object) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axis.set_minor_formatter(NullFormatter())


def short(number: float) -> str:
    """A number for an axis: 950, 12k, 3.6M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def _bars(ax: Axes, counts: np.ndarray) -> None:
    """Bars of at most about a hundred bins."""
    width = max(1, -(-len(counts) // 100))
    padded = np.pad(counts, (0, -len(counts) % width)).reshape(-1, width).sum(axis=1)
    middle = np.arange(len(padded)) * width + (width - 1) / 2
    ax.bar(middle, padded, width=width * 0.9)
    _thousands(ax.yaxis)


def _lengths(ax: Axes, stats: Statistics) -> None:
    longest = max(map(len, stats.lengths.values()))
    for name, rows in stats.lengths.items():
        reached = np.cumsum(np.pad(rows, (0, longest - len(rows)))) / rows.sum()
        ax.step(np.arange(longest), reached, where="post", label=name)
    ax.set_ylim(0, 1.02)
    _thousands(ax.xaxis)
    ax.legend()
    ax.set(xlabel="items in the history", ylabel="share of rows")


def _held(ax: Axes, stats: Statistics) -> None:
    shares = np.concatenate([[0.0], np.cumsum(stats.held) / stats.held.sum()])
    some = np.unique(np.linspace(0, len(stats.held), 200).astype(int))
    ax.plot(some / len(stats.held), shares[some])
    ax.plot([0, 1], [0, 1], **REFERENCE)
    ax.set(xlabel="share of users", ylabel="share of rows")


def _per_user(ax: Axes, stats: Statistics) -> None:
    _bars(ax, stats.per_user)
    ax.set_yscale("log")
    _thousands(ax.yaxis)  # a new scale comes with its own labels
    ax.set(xlabel="rows of a user", ylabel="users")


def _popularity(ax: Axes, stats: Statistics) -> None:
    ranks = np.unique(np.geomspace(1, len(stats.popularity), 200).astype(int))  # 200 points draw the same line
    ax.plot(ranks, stats.popularity[ranks - 1])
    ax.set_xscale("log")
    ax.set_yscale("log")
    _thousands(ax.xaxis)
    _thousands(ax.yaxis)
    ax.set(xlabel="rank of the item", ylabel="rows")


def _by_popularity(ax: Axes, stats: Statistics) -> None:
    places = np.arange(len(stats.by_popularity))
    ax.bar(places, [rate for _, rate, _ in stats.by_popularity])
    labels = [_range(upper) for upper, _, _ in stats.by_popularity]
    ax.set_xticks(places, labels, rotation=45 if len(labels) > 5 else 0, ha="right" if len(labels) > 5 else "center")
    ax.set(xlabel="rows of the item", ylabel="click rate")


def _range(upper: int) -> str:
    lower = (upper + 1) // 2
    return str(upper) if lower == upper else f"{lower:,}–{upper:,}"


def _by_level(ax: Axes, stats: Statistics) -> None:
    ax.bar([level for level, _, _ in stats.by_level], [rate for _, rate, _ in stats.by_level])
    ax.set_xticks([level for level, _, _ in stats.by_level])
    ax.set(xlabel="level", ylabel="click rate")


def _norms(ax: Axes, norms: np.ndarray) -> None:
    low, high = float(norms.min()), float(norms.max())
    if high - low < 1e-6 * high:  # all of one length: a bar as wide as the eye needs
        low, high = low * 0.95, high * 1.05
    ax.hist(norms, bins=60, range=(low, high))
    _thousands(ax.yaxis)
    ax.set(xlabel="norm", ylabel="items")
