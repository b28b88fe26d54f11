"""`qin-zoo demo`: the main job on sample data, from nothing to a report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def demo(
    rows: Annotated[int, typer.Option(help="Training rows of the sample.")] = 100_000,
    items: Annotated[int, typer.Option(help="Items of the sample.")] = 2_000,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 1,
    data: Annotated[Path, typer.Option(help="Folder of the sample.")] = Path("data/sample"),
) -> None:
    """Make sample data, train QIN with and without the history, and report both beside what is reachable."""
    from qin_zoo.experiment.demo import run_demo

    run_demo(data, rows, items, seed, argv=sys.argv, echo=typer.echo)
