"""`qin-zoo tune`: FuxiCTR's tuner files as grids, and ranges searched with Optuna."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from qin_zoo.cli import options


class Pruner(str, Enum):
    median = "median"
    halving = "halving"
    none = "none"


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
        Pruner | None, typer.Option(help="Stops hopeless trials; by default median with ranges, none for a grid.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the search in ranges.")] = 0,
    strict: options.Strict = False,
) -> None:
    """Search for parameters: every combination of lists, or the best within ranges (Optuna's TPE).

    The same command again goes on where it was stopped or killed; given twice, on one machine or on several with one
    --storage, the two share the work.
    """
    from qin_zoo.config.experiments import find_file
    from qin_zoo.tuning.report import print_results, write_results
    from qin_zoo.tuning.tuner import Tuner, plan_search

    if gpu and workers > 1:
        raise typer.BadParameter("Give --gpu once for each trial at once, or --workers for the CPU, not both.")
    search = plan_search(
        find_file(config), trials=trials, storage=storage, data=data, overrides=options.changes(overrides, strict),
        plugins=plugin, pruner=pruner and pruner.value, seed=seed,
    )  # fmt: skip
    for note in search.base.notes:
        typer.echo(note)
    tuner = Tuner(search, gpus=gpu or [-1] * workers, timeout=timeout, echo=typer.echo)
    interrupted = False
    try:
        tuner.run()
    except KeyboardInterrupt:
        interrupted = True
    results = write_results(search, tuner.study)
    print_results(results)
    if interrupted:
        typer.echo(f"Interrupted. {results.progress} The same command goes on from here.", err=True)
        raise typer.Exit(130)
    if not results.is_complete:
        typer.echo(f"{results.progress} The same command goes on from here.", err=True)
    if results.failed and not results.finished:
        typer.echo(f"Error: no trial succeeded. {results.failed[0].expid}: {results.failed[0].error}", err=True)
        raise typer.Exit(1)
