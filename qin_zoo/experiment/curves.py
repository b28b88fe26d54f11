"""The training curves of a run, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from qin_zoo.pages.plots import REFERENCE, legend_below, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from qin_zoo.experiment.record import Look


def draw_curves(
    evaluations: list[Look],
    path: Path,
    title: str,
    reachable: float | None = None,
    calibration: Mapping[str, Mapping] | None = None,
) -> None:
    """Draws loss, validation metrics and learning rate against the epoch, and how reliable the final scores are.

    Args:
        reachable: best reachable AUC, drawn as a line where it is known.
        calibration: split -> its :class:`~qin_zoo.calibration.Reliability`, as a dictionary.
    """
    from matplotlib.ticker import MaxNLocator  # plotting is imported only when something is drawn

    # with several evaluations an epoch, the step tells them apart
    unit = "epoch" if len({e["epoch"] for e in evaluations}) == len(evaluations) else "step"
    x = [e[unit] for e in evaluations]
    curves = [
        ("training loss", [e["train_loss"] for e in evaluations]),
        *((f"valid {m}", [e["metrics"][m] for e in evaluations]) for m in evaluations[0]["metrics"]),
        ("learning rate", [e["learning_rate"] for e in evaluations]),
    ]
    panels = len(curves) + bool(calibration)
    columns = min(3, panels)
    rows = -(-panels // columns)
    best = max((i for i, e in enumerate(evaluations) if e["best"]), default=None)
    with picture(path, 4.2 * columns, 3.1 * rows, title) as figure:
        for i, (name, values) in enumerate(curves):
            ax = figure.add_subplot(rows, columns, i + 1)
            ax.plot(x, values, marker="o")
            ax.set(title=name, xlabel=unit)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            if best is not None and name.startswith("valid"):
                ax.plot(x[best], values[best], marker="*", markersize=11, linestyle="none", label="kept")
            if reachable is not None and name == "valid AUC":
                ax.axhline(reachable, **REFERENCE, label="best reachable")
            if ax.get_legend_handles_labels()[0]:
                ax.legend()
            if name == "learning rate":
                ax.set_yscale("log")
        if calibration:
            _draw_reliability(figure.add_subplot(rows, columns, panels), calibration, "reliability")


def draw_reliability(curves: Mapping[str, Mapping[str, Mapping]], path: Path, title: str) -> None:
    """Draws a panel for each split: name -> :class:`~qin_zoo.calibration.Reliability`, as a dictionary."""
    with picture(path, 4.2 * len(curves), 4.2, title) as figure:
        for number, (split, named) in enumerate(curves.items()):
            _draw_reliability(figure.add_subplot(1, len(curves), number + 1), named, split)


def _draw_reliability(ax: Axes, curves: Mapping[str, Mapping], title: str) -> None:
    """Share of clicks against mean prediction of each bin; honest probabilities lie on the diagonal."""
    for name, curve in curves.items():
        ax.plot(curve["predicted"], curve["clicked"], marker="o", label=f"{name}: ECE {curve['ece']:.4f}")
    ax.axline((0, 0), slope=1, **REFERENCE)
    ax.set(title=title, xlabel="mean prediction", ylabel="share of clicks")
    ax.legend(loc="upper left")


def draw_comparison(
    runs: dict[str, list[Look]], levels: dict[str, float], path: Path, title: str, metric: str = "AUC"
) -> None:
    """Draws one validation metric of several runs, by name, against the epoch, with named levels to compare with."""
    from matplotlib.ticker import MaxNLocator

    with picture(path, 6.4, 4.4, title) as figure:
        ax = figure.add_subplot(xlabel="epoch", ylabel=f"valid {metric}")
        for name, evaluations in runs.items():
            values = [e["metrics"][metric] for e in evaluations]
            ax.plot([e["epoch"] for e in evaluations], values, marker="o", label=name)
        for number, (name, value) in enumerate(levels.items(), len(runs)):
            ax.axhline(value, **{**REFERENCE, "color": f"C{number}"}, label=f"{name}: {value:.4f}")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_below(figure)
