"""`qin-zoo tune`: FuxiCTR's tuner files as grids, and ranges searched with Optuna."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from qin_zoo.cli import options
from qin_zoo.cli.table import print_table
from qin_zoo.errors import printable

if TYPE_CHECKING:
    from qin_zoo.tuning.report import Results

_SHOWN = 30  # lines of the table


def tune(
    config: Annotated[
        Path,
        typer.Argument(
            help="FuxiCTR's tuner file, base_expid and tuner_space; or one of ours by name.", show_default=False
        ),
    ],
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials of a search in ranges, 50 by default; a grid runs them all.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds after which no further trial is started.")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(help="URL of an Optuna storage that several machines share; by default an SQLite file."),
    ] = None,
    workers: options.Workers = 1,
    gpu: options.Gpus = None,
    data: options.Data = None,
    overrides: options.Overrides = None,
    plugin: options.Plugins = None,
    pruner: Annotated[
        Literal["median", "halving", "none"] | None,
        typer.Option(help="Stops hopeless trials; by default median with ranges, none for a grid."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the search in ranges.")] = 0,
    strict: options.Strict = False,
) -> None:
    """Search for parameters: every combination of lists, or the best within ranges (Optuna's TPE).

    The same command again goes on where it was stopped or killed; given twice, on one machine or on several with one
    --storage, the two share the work.
    """
    from qin_zoo.config.experiments import find_file
    from qin_zoo.tuning.report import write_results
    from qin_zoo.tuning.space import read_space
    from qin_zoo.tuning.tuner import Tuner, plan_search

    if gpu and workers > 1:
        raise typer.BadParameter("Give --gpu once for each trial at once, or --workers for the CPU, not both.")
    space = read_space(find_file(config), options.changes(overrides, strict))
    search = plan_search(space, trials=trials, storage=storage, data=data, plugins=plugin, pruner=pruner, seed=seed)
    for note in search.base.notes:
        typer.echo(note)
    tuner = Tuner(search, gpus=gpu or [-1] * workers, timeout=timeout, echo=typer.echo)
    interrupted = False
    try:
        tuner.run()
    except KeyboardInterrupt:
        interrupted = True
    results = write_results(search, tuner.study)
    _print_results(results)
    if interrupted:
        typer.echo(f"Interrupted. {results.progress} The same command goes on from here.", err=True)
        raise typer.Exit(130)
    if not results.is_complete:
        typer.echo(f"{results.progress} The same command goes on from here.", err=True)
    if results.failed and not results.finished:
        typer.echo(f"Error: no trial succeeded. {results.failed[0].expid}: {results.failed[0].error}", err=True)
        raise typer.Exit(1)


def _print_results(results: Results) -> None:
    """The table, the best first, and where everything lies."""
    header, rows = results.header, results.rows
    numbers = [place for place, name in enumerate(header) if name not in ("expid", "state")]
    # an id is for copying, so it is never cut; where room is short, the varied parameters are folded
    folded = [place for place, name in enumerate(header) if name in results.keys]
    print_table(header, rows[:_SHOWN], numbers, folded, width=0 if sys.stdout.isatty() else 200)
    told = [f"… and {len(rows) - _SHOWN} more"] if len(rows) > _SHOWN else []
    told += [f"{line.expid} failed: {line.error.splitlines()[0]}" for line in results.failed] + results.notes
    told += [f"best, to run again:  {results.best_command}"] if results.finished else []
    for line in (*told, f"table and pictures:  {results.page}"):
        print(printable(line))
