"""Tables on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qin_zoo.errors import printable
from qin_zoo.results.lines import Board
from qin_zoo.results.tables import Cell, Table, tables

if TYPE_CHECKING:
    from rich.text import Text


def show_boards(boards: list[Board]) -> None:
    """Prints the tables of boards."""
    for board in boards:
        for table in tables(board):
            show(table, f"{board.name}: {table.title}")


def show(table: Table, title: str) -> None:
    """Prints a table, as wide as it is."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as Shown

    shown = Shown(box=SIMPLE_HEAD, title=_text(title), title_justify="left")
    for number, name in enumerate(table.header):
        shown.add_column(_text(name), justify="right" if number else "left", no_wrap=True)
    for row in table.rows:
        shown.add_row(*(_text(cell.text) for cell in row))
    console = Console(highlight=False, width=max(Console().width, 400), soft_wrap=True)
    console.print(shown)
    if table.note:
        console.print(_text(table.note + "\n"))


def _text(text: str) -> Text:
    """As it is: names are no markup, and steer no terminal."""
    from rich.text import Text

    return Text(printable(text))


def listing(boards: list[Board]) -> Table:
    """Every run of some boards."""
    names = list(dict.fromkeys(m for board in boards for m in board.metrics))
    rows = [
        [
            *map(Cell, (board.name, entry.experiment, entry.variation, str(entry.seed), entry.split)),
            *(Cell(f"{entry.values[m]:.6f}" if m in entry.values else "") for m in names),
            Cell(f"{entry.seconds:,.0f}"),
            Cell(entry.digest),
        ]
        for board in boards
        for line in board.lines
        for entry in line.entries
    ]
    header = ["dataset", "experiment", "variation", "seed", "split", *names, "training s", "digest"]
    return Table("runs", "Runs", "", header, rows)
