"""`qin-zoo export`: a trained experiment to one file that scores requests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qin_zoo.cli import options

if TYPE_CHECKING:
    from qin_zoo.experiment.prepare import Prepared

Histories = Annotated[
    str | None,
    typer.Option(
        metavar="OUT.npz",
        help="Also write what is known of each user, history and features, for `qin-zoo serve --histories`; redis://… "
        "for Redis.",
    ),
]


def export(
    run: options.Run,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="File to write, NAME.onnx (or NAME.pt2, for torch), or a folder.")
    ],
    config: options.Config = None,
    data: options.Data = None,
    checkpoint: options.Checkpoint = None,
    table: Annotated[
        str, typer.Option(help="How items are kept: fp32, fp16 or int8; the loss of AUC is measured and printed.")
    ] = "fp32",
    items: Annotated[
        Path | None,
        typer.Option(metavar="NEW.parquet", help="Items to add to the catalogue or to replace, without training."),
    ] = None,
    histories: Histories = None,
    overrides: options.Overrides = None,
    plugin: options.Plugins = None,
) -> None:
    """Export a trained model to an ONNX file with a manifest, which qin_zoo.serving.Scorer scores without torch."""
    from qin_zoo.export.export import export_run
    from qin_zoo.results.trained import find_run

    prepared, checkpoint = find_run(run, config, checkpoint, data=data, overrides=overrides, plugins=plugin)
    export_run(prepared, out, checkpoint=checkpoint, table=table, items=items, echo=typer.echo)
    if histories is not None:
        write_users(prepared, histories)


def write_users(prepared: Prepared, where: str) -> None:
    """Writes what is known of each user, and says so; `update` does so, too."""
    from qin_zoo.export.histories import export_histories

    users = export_histories(prepared.open_dataset(), where)
    typer.echo(f"{where.partition('@')[2] or where}: the newest histories of {users:,} users")
