"""`qin-zoo export`: a trained experiment to one file that scores requests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qin_zoo.cli import options


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Experiment id, or a run's record, <expid>.json.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write, NAME.onnx, or a folder.")],
    config: options.Config = None,
    data: options.Data = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights to use. Default: those of the experiment.")] = None,
    table: Annotated[
        str, typer.Option(help="How items are kept: fp32, fp16 or int8; the loss of AUC is measured and printed.")
    ] = "fp32",
    items: Annotated[
        Path | None,
        typer.Option(metavar="NEW.parquet", help="Items to add to the catalogue or to replace, without training."),
    ] = None,
    overrides: options.Overrides = None,
    plugin: options.Plugins = None,
) -> None:
    """Export a trained model to an ONNX file with a manifest, which qin_zoo.serving.Scorer scores without torch."""
    from dataclasses import replace

    from qin_zoo.export.export import export_run
    from qin_zoo.training.prepare import prepare
    from qin_zoo.training.repeat import prepare_repetition

    if run.endswith(".json"):
        record = Path(run)
        repetition = prepare_repetition(record, data=data, overrides=overrides, plugins=plugin)
        prepared = replace(repetition.prepared, expid=repetition.record["expid"])
        checkpoint = checkpoint or record.with_suffix(".model")
    else:
        prepared = prepare(run, config, data=data, overrides=overrides, plugins=plugin)
    export_run(prepared, out, checkpoint=checkpoint, table=table, items=items, echo=typer.echo)
