"""Boards as Markdown, CSV, pictures and one page."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path

from qin_zoo.experiment.report import markdown_picture, markdown_table
from qin_zoo.files import replace_file, replace_text
from qin_zoo.pages import write_page
from qin_zoo.pages.plots import PAGE, save, style, svg
from qin_zoo.results.entry import Entry
from qin_zoo.results.lines import Board
from qin_zoo.results.plots import plots
from qin_zoo.results.statistics import estimate
from qin_zoo.results.tables import tables

_TOLD = "Mean ± standard deviation over seeds [95 % interval]."


def write_html(boards: list[Board], file: Path, title: str) -> None:
    """One page with everything, which asks for nothing from elsewhere."""
    from markupsafe import Markup

    with style(PAGE):
        shown = []
        for i, board in enumerate(boards):
            pictures = [(plot, Markup(svg(plot.figure, f"b{i}p{k}"))) for k, plot in enumerate(plots(board))]
            shown.append({"name": board.name, "tables": tables(board), "plots": pictures})
    write_page(file, "qin_zoo.results", "leaderboard.html.j2", title=title, told=_TOLD, boards=shown)


def write_markdown(boards: list[Board], file: Path, title: str, failed: Mapping[str, str] | None = None) -> None:
    """Tables, and pictures in files beside the page, ``<name>_<board>_<picture>.png``; and why which runs failed."""
    parts = [f"# {title}", _TOLD]
    for board in boards:
        parts.append(f"## {board.name}")
        for table in tables(board):
            cells = [[cell.text for cell in row] for row in table.rows]
            parts += [f"### {table.title}", table.note, markdown_table(table.header, cells)]
        with style():
            for plot in plots(board):
                picture = file.with_name(f"{file.stem}_{board.name}_{plot.key}.png")
                save(plot.figure, picture)
                parts += [f"**{plot.title}.** {plot.told}", markdown_picture(plot.title, picture.name)]
    if failed:
        parts += ["## Failed", "\n".join(f"- `{name}`: {why.splitlines()[0]}" for name, why in failed.items())]
    replace_text(file, "\n\n".join(parts) + "\n")


def write_csv(boards: list[Board], file: Path) -> None:
    """A row for each run: what it is, metrics of the scored split, cost; then its tests and slices."""
    rows = [_row(entry) for board in boards for line in board.lines for entry in line.entries]
    header = list(dict.fromkeys(key for row in rows for key in row))
    with replace_file(file) as temporary, open(temporary, "w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, header, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _row(entry: Entry) -> dict[str, object]:
    drawn = entry.drawn
    errors = {name: estimate([0.0], v, drawn.groups).users for name, v in drawn.values.items()} if drawn else {}
    row = {
        "dataset": entry.dataset_id,
        **{key: getattr(entry, key) for key in ("experiment", "variation", "model", "seed", "split")},
        **entry.values,
        **{f"{name} error over users": f"{error:.6f}" for name, error in errors.items() if not math.isnan(error)},
        "ECE": entry.calibration["ece"] if entry.calibration else "",
        "parameters": entry.parameters,
        "seconds": f"{entry.seconds:.1f}",
        "rows_per_second": f"{entry.scored:.0f}" if entry.scored else "",
        "curve": entry.course,
        "tuning_trials": entry.tuning["trials"] if entry.tuning else "",
        "tuning_minutes": f"{entry.tuning['minutes']:.2f}" if entry.tuning else "",
    }
    parts = [*entry.tests.items()]
    parts += [(f"{kind} {part}", v) for kind, found in entry.slices.items() for part, v in found.items()]
    return row | {f"{metric} {part}": value for part, values in parts for metric, value in values.items()}
