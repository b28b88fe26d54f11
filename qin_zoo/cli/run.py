"""`qin-zoo run`: train, evaluate, predict and report one experiment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from qin_zoo.cli import options


def run(
    experiment: Annotated[str | None, typer.Argument(help="Experiment id.")] = None,
    config: options.Config = None,
    expid: Annotated[str | None, typer.Option("--expid", help="Experiment id, as in FuxiCTR.")] = None,
    gpu: options.Gpu = -1,
    data: options.Data = None,
    overrides: options.Overrides = None,
    plugin: options.Plugins = None,
) -> None:
    """Train an experiment, evaluate it, predict the test rows and write submission, report and picture."""
    from qin_zoo.training.prepare import prepare
    from qin_zoo.training.run import run_experiment

    if (experiment is None) == (expid is None):
        raise typer.BadParameter("Give one experiment id: qin-zoo run EXPID, or --expid EXPID.")
    prepared = prepare(experiment or expid, config, gpu=gpu, data=data, overrides=overrides, plugins=plugin)
    try:
        run_experiment(prepared, results_folder=Path.cwd(), argv=sys.argv, echo=typer.echo)
    except KeyboardInterrupt:
        typer.echo(
            f"Interrupted. The best weights so far, if an evaluation was reached, are {prepared.files.checkpoint}; "
            f"`qin-zoo predict {prepared.expid}` uses them.",
            err=True,
        )
        raise typer.Exit(130) from None
