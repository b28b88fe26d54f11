"""`qin-zoo calibrate`: makes a trained model's scores the shares of clicks they claim to be."""

from __future__ import annotations

from typing import Annotated

import typer

from qin_zoo.cli import options


def calibrate(
    run: options.Run,
    method: Annotated[
        str, typer.Option(help="platt: two numbers, keeps the order; isotonic: any rising curve, wants more rows.")
    ] = "platt",
    config: options.Config = None,
    checkpoint: options.Checkpoint = None,
    gpu: options.Gpu = -1,
    data: options.Data = None,
    overrides: options.Overrides = None,
    plugin: options.Plugins = None,
) -> None:
    """Fit a calibration step on the valid split; predict and export use it from then on."""
    from qin_zoo.experiment.calibrate import calibrate_run
    from qin_zoo.results.trained import find_run

    prepared, checkpoint = find_run(run, config, checkpoint, gpu=gpu, data=data, overrides=overrides, plugins=plugin)
    calibrate_run(prepared, method, checkpoint, echo=typer.echo)
