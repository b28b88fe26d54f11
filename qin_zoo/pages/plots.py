"""Plots for pages and for pictures: one style, in the colours of where they go.

What draws says what is drawn; sizes, fonts, colours, grids and files are decided here. A series takes the next colour
by itself; ``"C0"``, ``"C1"``, … name them.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qin_zoo.files import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SERIES = 12
_DPI = 110
REFERENCE = {"color": "C8", "linestyle": "--", "linewidth": 1}
"""A line to compare with: what is honest, alike for all, or the best there can be."""


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
    (
        "#2b6cb0", "#c05621", "#2f855a", "#9b2c6f", "#6b46c1", "#8a6d00", "#0b7285", "#a61e1e", "#5f6c7b", "#7b4b2a",
        "#d6498f", "#5c8a0d",
    ),
)  # fmt: skip
_VARIABLES = {
    PAGE.text: "var(--text)",
    PAGE.line: "var(--line)",
    **{colour: f"var(--s{i})" for i, colour in enumerate(PAGE.series)},
}
_STYLE = {
    "figure.constrained_layout.use": True,
    "figure.titlesize": 11,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.alpha": 0.5,
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "errorbar.capsize": 2,
}


_LINE, _ROOM = 0.18, 5  # inches of a line of a legend, and lines that a figure's height has room for


@contextmanager
def style(palette: Palette = PICTURE) -> Iterator[None]:
    """Figures that are made, and written, within the block look alike."""
    import matplotlib  # imported only when something is drawn
    from cycler import cycler

    texts = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), palette.text)
    lines = dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), palette.line)
    with matplotlib.rc_context({**_STYLE, **texts, **lines, "axes.prop_cycle": cycler(color=palette.series)}):
        yield


def new_figure(width: float = 4.4, height: float = 2.9) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes, sizes in inches; to be made and written in a :func:`style`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def wrapped(name: str) -> str:
    """The name of a series, in lines that leave a figure some room."""
    return "\n".join(textwrap.wrap(name, 32, break_long_words=False, break_on_hyphens=False))


def legend_below(figure: Figure) -> None:
    """The names of all series below the axes, where they hide nothing; the figure grows with them."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    labels = [wrapped(label) for label in labels]
    columns = 3 if max(map(len, labels), default=0) < 18 else 2
    lines = sum(1 + label.count("\n") for label in labels) / columns
    figure.set_figheight(figure.get_figheight() + _LINE * max(0, lines - _ROOM))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


@contextmanager
def picture(path: Path, width: float, height: float, title: str) -> Iterator[Figure]:
    """A figure of so many inches to draw on, in the style; it is written to the PNG file when the block ends.

    Raises:
        QinZooError: it cannot be written.
    """
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(width, height))
        figure.suptitle(title, parse_math=False)
        yield figure
        save(figure, path)


def save(figure: Figure, path: Path, **options: object) -> None:
    """Writes a PNG file; ``options`` are of ``savefig``."""
    with replace_file(path) as temporary:
        figure.savefig(temporary, dpi=_DPI, format="png", **options)


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
    # Hundredths of a point are finer than any screen; the digits behind them are 6 % of a leaderboard.
    text = re.sub(r' (?:d|x|y)="[^"]*"', lambda place: re.sub(r"(\.\d\d)\d+", r"\1", place[0]), text)
    text = re.sub(r'id="([^"]*)"', rf'id="{name}-\1"', text)
    text = re.sub(r'href="#([^"]*)"', rf'href="#{name}-\1"', text).replace("url(#", f"url(#{name}-")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return text
