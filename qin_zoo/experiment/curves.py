"""The training curves of a run, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qin_zoo.files import replace_file
from qin_zoo.training.trainer import Evaluation


def draw_curves(
    evaluations: list[Evaluation],
    path: Path,
    title: str,
    reachable: float | None = None,
    calibration: Mapping[str, Mapping] | None = None,
) -> None:
    """Draws loss, validation metrics and learning rate against the epoch, and how reliable the final scores are.

    Args:
        evaluations: of one training, in order.
        path: PNG file to write.
        title: headline.
        reachable: best reachable AUC, drawn as a line where it is known.
        calibration: split -> its :class:`~qin_zoo.calibration.Reliability`, as a dictionary.
    """
    from matplotlib.figure import Figure  # plotting is imported only when something is drawn
    from matplotlib.ticker import MaxNLocator

    metrics = list(evaluations[0].metrics)
    x = [e.epoch for e in evaluations]
    if len(set(x)) < len(x):  # several evaluations an epoch: the step tells them apart
        x = [e.step for e in evaluations]
    curves = [
        ("training loss", [e.train_loss for e in evaluations]),
        *((f"valid {m}", [e.metrics[m] for e in evaluations]) for m in metrics),
        ("learning rate", [e.learning_rate for e in evaluations]),
    ]
    panels = len(curves) + bool(calibration)
    columns = min(3, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(4.2 * columns, 3.1 * rows), layout="constrained")
    best = max((i for i, e in enumerate(evaluations) if e.best), default=None)
    for i, (name, values) in enumerate(curves):
        ax = figure.add_subplot(rows, columns, i + 1)
        ax.plot(x, values, marker="o", markersize=3, color="#2b6cb0")
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("epoch" if x[-1] == evaluations[-1].epoch else "step", fontsize=9)
        ax.grid(alpha=0.3)
        ax.tick_params(labelsize=8)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if best is not None and name.startswith("valid"):
            ax.plot(x[best], values[best], marker="*", markersize=11, color="#dd6b20", linestyle="none", label="kept")
        if reachable is not None and name == "valid AUC":
            ax.axhline(reachable, color="#38a169", linestyle="--", linewidth=1, label="best reachable")
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=8)
        if name == "learning rate":
            ax.set_yscale("log")
    if calibration:
        _draw_reliability(figure.add_subplot(rows, columns, panels), calibration)
    figure.suptitle(title, fontsize=11)
    with replace_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def draw_reliability(curves: Mapping[str, Mapping[str, Mapping]], path: Path, title: str) -> None:
    """Draws reliability curves, a panel for each split.

    Args:
        curves: split -> name -> its :class:`~qin_zoo.calibration.Reliability`, as a dictionary.
        path: PNG file to write.
        title: headline.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(curves), 4.2), layout="constrained")
    for number, (split, named) in enumerate(curves.items()):
        ax = figure.add_subplot(1, len(curves), number + 1)
        _draw_reliability(ax, named)
        ax.set_title(split, fontsize=10)
    figure.suptitle(title, fontsize=11)
    with replace_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _draw_reliability(ax, curves: Mapping[str, Mapping]) -> None:
    """Share of clicks against mean prediction of each bin; honest probabilities lie on the diagonal."""
    for (name, curve), color in zip(curves.items(), ("#dd6b20", "#2b6cb0")):
        label = f"{name}: ECE {curve['ece']:.4f}"
        ax.plot(curve["predicted"], curve["clicked"], marker="o", markersize=3, linewidth=1, color=color, label=label)
    ax.axline((0, 0), slope=1, color="#a0aec0", linestyle="--", linewidth=1)
    ax.set_title("reliability", fontsize=10)
    ax.set_xlabel("mean prediction", fontsize=9)
    ax.set_ylabel("share of clicks", fontsize=9)
    ax.grid(alpha=0.3)
    ax.tick_params(labelsize=8)
    ax.legend(fontsize=8, loc="upper left")


def draw_comparison(
    runs: dict[str, list[Evaluation]], levels: dict[str, float], path: Path, title: str, metric: str = "AUC"
) -> None:
    """Draws one validation metric of several runs against the epoch, with horizontal lines to compare with.

    Args:
        runs: name -> evaluations.
        levels: name -> value drawn as a line.
        path: PNG file to write.
        title: headline.
        metric: what is drawn.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    ax = figure.add_subplot()
    for name, evaluations in runs.items():
        values = [e.metrics[metric] for e in evaluations]
        ax.plot([e.epoch for e in evaluations], values, marker="o", markersize=4, label=name)
    for (name, value), color in zip(levels.items(), ("#38a169", "#718096", "#b7791f")):
        ax.axhline(value, linestyle="--", linewidth=1, color=color, label=f"{name}: {value:.4f}")
    ax.set_xlabel("epoch")
    ax.set_ylabel(f"valid {metric}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    ax.set_title(title, fontsize=11)
    with replace_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
