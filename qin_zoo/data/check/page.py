"""A check's report as one page that asks for nothing from elsewhere, and its tables."""

from __future__ import annotations

import math
from pathlib import Path

from qin_zoo.data.check.folder import Report
from qin_zoo.data.check.plots import figures_of
from qin_zoo.pages import write_page as write
from qin_zoo.pages.plots import svg


def verdict(report: Report) -> str:
    """One line: how many findings of each severity."""
    counts = [(len(report.errors), "error"), (len(report.warnings), "warning")]
    notes = len(report.findings) - sum(n for n, _ in counts)
    return ", ".join(f"{n or 'no'} {word}{'' if n == 1 else 's'}" for n, word in [*counts, (notes, "note")])


def split_figures(report: Report) -> list[tuple[str, list[str]]]:
    """``(heading, a cell for each split)``, the rows of the table of splits."""
    splits = list(report.statistics.splits.values())
    return [
        ("rows", [f"{s.rows:,}" for s in splits]),
        ("users", [f"{s.users:,}" for s in splits]),
        ("items as target", [f"{s.items:,}" for s in splits]),
        ("click rate", [share(s.clicks) for s in splits]),
        ("rows of the top 1% of users", [share(s.top_rows) for s in splits]),
        ("clicks of the top 1% of users", [share(s.top_clicks) for s in splits]),
        ("users with half of the rows", [f"{s.half:,}" for s in splits]),
        ("history, least", [f"{s.history[0]:,}" for s in splits]),
        ("history, quarter", [f"{s.quartiles[0]:,.0f}" for s in splits]),
        ("history, median", [f"{s.history[1]:,.0f}" for s in splits]),
        ("history, three quarters", [f"{s.quartiles[1]:,.0f}" for s in splits]),
        ("history, mean", [f"{s.history[2]:,.1f}" for s in splits]),
        ("history, greatest", [f"{s.history[3]:,}" for s in splits]),
        ("rows without history", [share(s.no_history) for s in splits]),
        ("rows of cold items", [share(s.cold_items) for s in splits]),
        ("rows of cold users", [share(s.cold_users) for s in splits]),
        ("duplicates", [share(s.duplicates) for s in splits]),
        ("target in its history", [share(s.in_history) for s in splits]),
    ]


def vector_figures(report: Report) -> list[list[str]]:
    """The rows of the table of embeddings: name, length, least, median, mean and greatest norm."""
    return [
        [name, str(v.dim), *("–" if math.isnan(x) else f"{x:.4g}" for x in v.norms)]
        for name, v in report.statistics.vectors.items()
    ]


def share(value: float) -> str:
    """A share in percent; a dash where there is none."""
    if math.isnan(value):
        return "–"
    if 0 < value < 1e-4:
        return "<0.01%"
    return f"{value:.2%}"


def write_page(report: Report, path: Path) -> None:
    """Writes the page.

    Raises:
        QinZooError: it cannot be written.
    """
    from markupsafe import Markup

    splits = list(report.statistics.splits)
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
        plots=[
            (title, told, Markup(svg(figure, f"plot{i}")))
            for i, (title, told, figure) in enumerate(figures_of(report.statistics))
        ],
    )
