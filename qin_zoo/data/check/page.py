"""A check's report as one page that asks for nothing from elsewhere, and its tables."""

from __future__ import annotations

import math
from pathlib import Path

from qin_zoo.data.check.folder import Report
from qin_zoo.data.check.plots import figures_of
from qin_zoo.pages import write_page as write
from qin_zoo.pages.plots import PAGE, style, svg


def verdict(report: Report) -> str:
    """One line: how many findings of each severity."""
    counts = [(len(report.errors), "error"), (len(report.warnings), "warning")]
    notes = len(report.findings) - sum(n for n, _ in counts)
    return ", ".join(f"{n or 'no'} {word}{'' if n == 1 else 's'}" for n, word in [*counts, (notes, "note")])


def split_figures(report: Report) -> list[tuple[str, list[str]]]:
    """``(heading, a cell for each split)``, the rows of the table of splits."""
    splits = list(report.statistics.splits.values())
    headings = splits[0] if splits else ()
    return [(heading, [_cell(*split[heading]) for split in splits]) for heading in headings]


def vector_figures(report: Report) -> list[list[str]]:
    """The rows of the table of embeddings: name, length, least, median, mean and greatest norm."""
    return [[name, str(v.dim), *(_cell(x, ".4g") for x in v.norms)] for name, v in report.statistics.vectors.items()]


def _cell(value: float, written: str) -> str:
    """A figure as it is written; a dash where there is none."""
    if math.isnan(value):
        return "–"
    return "<0.01%" if written == ".2%" and 0 < value < 1e-4 else format(value, written)


def write_page(report: Report, path: Path) -> None:
    """Writes the page.

    Raises:
        QinZooError: it cannot be written.
    """
    from markupsafe import Markup

    splits = list(report.statistics.splits)
    with style(PAGE):
        plots = [
            (title, told, Markup(svg(figure, f"plot{i}")))
            for i, (title, told, figure) in enumerate(figures_of(report.statistics))
        ]
    write(
        path,
        "qin_zoo.data.check",
        "page.html.j2",
        name=report.path.name,
        path=str(report.path),
        per_user=report.per_user,
        verdict=verdict(report),
        splits=splits,
        figures=split_figures(report),
        items="" if report.statistics.items is None else f"{report.statistics.items:,}",
        vectors=vector_figures(report),
        findings=report.findings,
        drawn=splits[0] if splits else "",
        plots=plots,
    )
