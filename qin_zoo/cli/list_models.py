"""`qin-zoo list`: the models there are."""

from __future__ import annotations

import fnmatch
from typing import Annotated

import typer

from qin_zoo.cli import options


def list_models(
    pattern: Annotated[str, typer.Argument(help="Shell pattern of names, such as '*din*'.")] = "*",
    plugin: options.Plugins = None,
) -> None:
    """List the models: paper, published figures and experiment ids."""
    from rich.console import Console
    from rich.table import Table

    from qin_zoo.config.experiments import find_experiments
    from qin_zoo.registry import discover

    problems: list[str] = []
    experiments = find_experiments(problems=problems)
    table = Table(show_lines=True)
    for column in ("model", "paper", "inputs", "published"):
        table.add_column(column, overflow="fold")
    table.add_column("experiments", no_wrap=True)
    for entry in discover(plugin or []).values():
        if fnmatch.fnmatch(entry.name.lower(), pattern.lower()):
            table.add_row(
                f"{entry.name}\n{entry.summary.replace('``', '')}",
                entry.card.get("paper", ""),
                entry.card.get("inputs", "item table, named fields"),
                "\n".join(f"{dataset}: {figure}" for dataset, figure in entry.card.get("published", {}).items()),
                "\n".join(e.expid for e in experiments if e.model == entry.name),
            )
    Console().print(table)
    for problem in problems:
        typer.echo(f"Left out: {problem}", err=True)
