"""`qin-zoo doctor`: does what is at hand belong together?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_SIGNS = {"ok": ("+", "green"), "note": ("·", "cyan"), "warning": ("!", "yellow"), "error": ("x", "bold red")}


def doctor(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RUN|DATA|EXPORT|STORE]",
            help="A run (record, short id), a folder of runs or data, an export (.onnx), or a store of results.",
        ),
    ] = None,
) -> None:
    """Check what a result stands on: hashes, data, versions, threads, disk, GPU. Changes nothing.

    Without an argument it looks at this machine and what is installed. The status is 1 if there is an error.
    """
    from rich.console import Console

    from qin_zoo.doctor import look_at
    from qin_zoo.results.runs import file_of

    console, bad = Console(highlight=False), False
    for line in look_at(file_of(path) if path and path.name.startswith("#") else path):
        sign, style = _SIGNS[line.severity]
        sign = sign if sign.isascii() or (console.encoding or "").lower().startswith("utf") else "-"
        console.print(f"[{style}]{sign}[/]", end=" ")
        console.print(line.text, markup=False, soft_wrap=True)
        bad |= line.severity == "error"
    if bad:
        raise typer.Exit(1)
