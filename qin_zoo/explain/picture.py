"""An explanation as a picture: what the features contribute, and the history with weights and contributions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qin_zoo.explain.explanation import Explanation
from qin_zoo.explain.report import attention_lines, sum_line
from qin_zoo.pages.plots import REFERENCE, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UP, _DOWN, _WEIGHT = "C0", "C1", "C8"
_ROW = 0.21  # inches a line of text takes
_LONGEST = 42  # characters of an item's name


def draw_explanation(e: Explanation, path: Path) -> None:
    """Draws an explanation to a PNG file."""
    heights = [0.9 + _ROW * len(e.features), 0.9 + _ROW * max(len(e.history), 2)]
    heading = f"{e.expid}, {e.split} row {e.row}\n{sum_line(e)}"
    with picture(path, 10.5, sum(heights) + 0.8, heading) as figure:
        above, below = figure.subfigures(2, 1, height_ratios=heights)
        labels = [f"{f.part} {f.name}" + (f" = {f.shown}" if f.shown else "") for f in e.ranked]
        title = "contribution of each feature to the logit"
        _bars(above.add_subplot(), [f.contribution for f in e.ranked], labels, title)

        names = [_drawable(item.item.name, str(item.item.item)) for item in e.history]
        panels = [(layer, f"weight, {kind}") for layer, kind in e.layers.items()]
        axes = below.subplots(1, len(panels) + 1, sharey=True, squeeze=False)[0]
        for ax, (layer, title) in zip(axes, panels):
            _bars(ax, [item.weight(layer) for item in e.history], names, title, _WEIGHT)
        _bars(axes[-1], [item.contribution for item in e.history], names, "contribution to the logit")
        scored = "the row" if e.target is None else _drawable(e.target.name, str(e.target.item))
        of = f"history, oldest first; scored: {scored}\n{attention_lines(e)[0]}"
        below.suptitle(of, fontsize=9, parse_math=False)


def _bars(ax: Axes, values: list[float], labels: list[str], title: str, color: str | None = None) -> None:
    """Horizontal bars, the first above; coloured by their sign where no colour is given."""
    ax.barh(range(len(values)), values, color=color or [_UP if v >= 0 else _DOWN for v in values], height=0.75)
    ax.set_yticks(range(len(values)), labels, parse_math=False)
    ax.set_ylim(len(values) - 0.4, -0.6)
    ax.axvline(0, **REFERENCE)
    ax.grid(visible=False, axis="y")
    ax.locator_params(axis="x", nbins=6)
    ax.set_title(title)


def _drawable(name: str, number: str) -> str:
    """A name, shortened; the number of one whose script the picture's font does not have."""
    from matplotlib import font_manager

    known = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    if not all(ord(letter) in known for letter in name):
        return number
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
