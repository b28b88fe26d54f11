"""Tables that fit the terminal, for commands: no lines around them, and nothing from files steers the terminal."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from qin_zoo.errors import printable
from qin_zoo.files import as_json

if TYPE_CHECKING:
    from rich.text import Text


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    numbers: Collection[int] = (),
    folded: Collection[int] = (),
    title: str = "",
    width: int = 0,
) -> None:
    """Prints a table, and an empty line.

    Args:
        header: of each column.
        rows: texts.
        numbers: columns that stand on the right.
        folded: columns that go on in the next line where the terminal is narrow; the others keep their width.
        title: above it.
        width: letters that a line may have where the terminal, or a file, has fewer; 0 for none.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", title_justify="left")
    table.title = text(title) if title else None
    for place, name in enumerate(header):
        justify = "right" if place in numbers else "left"
        table.add_column(text(name), justify=justify, overflow="fold", no_wrap=place not in folded)
    for row in rows:
        table.add_row(*map(text, row))
    Console(highlight=False, width=max(Console().width, width)).print(table, soft_wrap=width > 0)
    print()


def print_json(value: object) -> None:
    """Prints a value for programs; what JSON does not know becomes its text, a number that is none null."""
    print(json.dumps(as_json(value), indent=2))


def print_lines(*lines: str) -> None:
    """Prints lines as they are, however long."""
    print(*map(printable, lines), sep="\n")


def print_text(what: object, style: str = "", indent: int = 0) -> None:
    """Prints a text as it is: names in it are no markup."""
    from rich.console import Console
    from rich.padding import Padding

    shown = text(what, style) if isinstance(what, str) else what
    Console(highlight=False).print(Padding(shown, (0, 0, 0, indent)) if indent else shown)


def text(what: str, style: str = "") -> Text:
    """Text for a terminal, without anything that would steer it."""
    from rich.text import Text

    return Text(printable(what), style)


def text_of(value: object) -> str:
    """A value as one would write it in a configuration."""
    from qin_zoo.tuning.space import show

    if not isinstance(value, (str, int, float, bool, list, tuple, dict, type(None))):
        return str(value)
    if isinstance(value, (list, tuple)):
        value = [list(part) if isinstance(part, tuple) else part for part in value]
    return show(value) if value != "" else "''"
