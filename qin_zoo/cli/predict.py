"""`qin-zoo predict`: predictions and submission from a checkpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from qin_zoo.cli import options


def predict(
    run: options.Run,
    others: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="RUN", help="Another run: the mean of both predictions; may be repeated."),
    ] = None,
    config: options.Config = None,
    checkpoint: options.Checkpoint = None,
    split: options.Split = "test",
    out: options.Output = None,
    gpu: options.Gpu = -1,
    data: options.Data = None,
    overrides: options.Overrides = None,
    plugin: options.Plugins = None,
    strict: options.Strict = False,
) -> None:
    """Predict a split with trained weights; write predictions and the zipped submission."""
    from qin_zoo.experiment.predict import predict_split
    from qin_zoo.results.trained import find_run

    changes = options.changes(overrides, strict)
    how = {"gpu": gpu, "data": data, "overrides": changes, "plugins": plugin}
    found = [find_run(run, config, checkpoint, **how), *(find_run(other, config, **how) for other in others or ())]
    for prepared, _ in found:
        for note in prepared.notes:
            typer.echo(note)
    (prepared, checkpoint), *rest = found
    predict_split(prepared, split, checkpoint=checkpoint, out=out, echo=typer.echo, others=rest)
