"""Plots for pages and for pictures: one style, in the colours of where they go."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SERIES = 9


@dataclass(frozen=True)
class Palette:
    """Colours of text, of axes and grids, and of the series."""

    text: str
    line: str
    series: tuple[str, ...]


# Colours that matplotlib writes and the page replaces, so that one picture serves light and dark.
PAGE = Palette("#010203", "#040506", tuple(f"#0708{i:02x}" for i in range(_SERIES)))
PICTURE = Palette(
    "#1f2933",
    "#8a949e",
    ("#2b6cb0", "#c05621", "#2f855a", "#9b2c6f", "#6b46c1", "#8a6d00", "#0b7285", "#a61e1e", "#5f6c7b"),
)
_VARIABLES = {
    PAGE.text: "var(--text)",
    PAGE.line: "var(--line)",
    **{colour: f"var(--s{i})" for i, colour in enumerate(PAGE.series)},
}


def new_figure(palette: Palette, width: float = 4.4, height: float = 2.9) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes, sizes in inches."""
    from matplotlib.figure import Figure  # imported only when something is drawn

    figure = Figure(figsize=(width, height), layout="constrained")
    ax = figure.add_subplot()
    ax.tick_params(labelsize=9, colors=palette.line, labelcolor=palette.text, which="both")
    for text in (ax.xaxis.label, ax.yaxis.label):
        text.set_color(palette.text)
        text.set_fontsize(9)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(palette.line)
    ax.grid(axis="y", color=palette.line, alpha=0.5, linewidth=0.6)
    ax.set_axisbelow(True)
    return figure, ax


def svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element for a page; ``name`` keeps its ids apart from other figures'."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]  # without the prologue, which names a DTD elsewhere
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text, count=2)  # HTML knows them
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'id="([^"]*)"', rf'id="{name}-\1"', text)
    text = re.sub(r'href="#([^"]*)"', rf'href="#{name}-\1"', text).replace("url(#", f"url(#{name}-")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return text
