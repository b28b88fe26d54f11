"""`qin-zoo update`: a day's rows into a model, and the model into the service, unless it got worse."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from qin_zoo.cli import options
from qin_zoo.cli.export import Histories, write_users
from qin_zoo.cli.run import training

WORSE = 3  # exit code


def update(
    run: options.Run,
    data: Annotated[
        Path, typer.Option("--data", help="Folder of the new rows: `data import … --extend OLD --only-new`.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--export", metavar="FILE.onnx", help="Export the new model there, if it is not worse."),
    ] = None,
    histories: Histories = None,
    allowed: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="X",
            help="How much worse the deciding metric (AUC) may get. Default: half the 95 % interval.",
        ),
    ] = None,
    replay: options.Replay = None,
    name: options.Name = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    config: options.Config = None,
    gpu: options.Gpu = -1,
    overrides: options.Overrides = None,
    plugin: options.Plugins = None,
) -> None:
    """Train a finished run further on new rows, compare it with what it was on the newest of them, and export it.

    Before and after are scored on the same rows, the test split of the new data, and users are drawn again to tell what
    of the difference is chance. A model that got worse by more than that, or than --allowed, is kept as a run, but not
    exported, and the exit code is 3. A service that watches the file (`qin-zoo serve --watch 5`) takes the new export
    by itself.
    """
    from qin_zoo.config.experiments import parse_overrides
    from qin_zoo.experiment.prepare import prepare
    from qin_zoo.results.trained import find_record, find_run
    from qin_zoo.update import update_run

    changes = parse_overrides(overrides or []) | ({} if replay is None else {"replay": replay})
    record = find_record(run, config, overrides) or prepare(run, config, overrides=changes).files.record
    with training():
        done = update_run(
            record, data, allowed=allowed, results_folder=Path.cwd(), argv=sys.argv, name=name, resume=resume,
            overwrite=overwrite, gpu=gpu, overrides=changes, plugins=plugin, echo=typer.echo,
        )  # fmt: skip
    if not done.passed:
        kept = "" if out is None else f" {out} stays as it is."
        typer.echo(f"Not exported: the new model is worse than the old one on the new rows.{kept}", err=True)
        raise typer.Exit(WORSE)
    if out is not None or histories is not None:
        prepared, checkpoint = find_run(str(done.files.record), plugins=plugin)
    if out is not None:
        from qin_zoo.export.export import export_run

        export_run(prepared, out, checkpoint=checkpoint, echo=typer.echo)
    if histories is not None:
        write_users(prepared, histories)
