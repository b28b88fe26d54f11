"""`qin-zoo continue`: train a finished run further, on the next period's rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from qin_zoo.cli import options
from qin_zoo.cli.run import training


def continue_(
    run: options.Run,
    data: Annotated[Path, typer.Option("--data", help="Folder with the next period's files, named as the run's.")],
    replay: options.Replay = None,
    name: options.Name = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    config: options.Config = None,
    gpu: options.Gpu = -1,
    overrides: options.Overrides = None,
    plugin: options.Plugins = None,
    strict: options.Strict = False,
) -> None:
    """Train a finished run further on the next period, replaying earlier rows whose values went stale (FeSAIL).

    The new run begins with the old one's weights and keeps its own files; the old one stays as it is. Beside the
    weights it keeps how stale every value of every embedding table is, and the rows that it was trained with, from
    which the next `continue` chooses. fesail: rows that hold values which did not occur in the new period, by greedy
    weighted coverage, and a regulariser that holds such values back; random: as many at random; none: the new rows
    only; all: every row, with weights that begin anew.

    Embedding tables grow: new items are new rows of the item table, new words of csv files come behind the known ones.
    """
    from qin_zoo.config.experiments import parse_overrides
    from qin_zoo.experiment.continued import prepare_continuation
    from qin_zoo.experiment.prepare import prepare
    from qin_zoo.experiment.run import run_experiment
    from qin_zoo.results.trained import find_record

    changes = parse_overrides(options.changes(overrides, strict)) | ({} if replay is None else {"replay": replay})
    record = find_record(run, config, overrides) or prepare(run, config, overrides=changes).files.record
    prepared = prepare_continuation(record, data, name=name, gpu=gpu, overrides=changes, plugins=plugin)
    with training():
        run_experiment(prepared, Path.cwd(), argv=sys.argv, echo=typer.echo, resume=resume, overwrite=overwrite)
