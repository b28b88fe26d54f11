"""`qin-zoo baseline`: what a model has to beat."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from qin_zoo.cli import options


def baseline(
    source: Annotated[
        str,
        typer.Argument(
            metavar="DATASET_OR_EXPID",
            help="Dataset id, a folder with dataset_config.yaml, experiment id, or a run: record or short id.",
        ),
    ],
    config: options.Config = None,
    which: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="NAME",
            help="ItemConstant, UserItemMeans, RecentPopularity, LogisticRegression or BoostedTrees; may be repeated.",
            show_default="all",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of what trees draw.", show_default="the experiment's")] = None,
    data: options.Data = None,
    time: Annotated[
        str | None,
        typer.Option(
            "--time",
            metavar="COLUMN",
            help="Column of the training file that says when a row happened.",
            show_default="rows stand in the order of time",
        ),
    ] = None,
    columns: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Also write the dataset with the counted columns as a feature, for networks..",
            show_default=False,
        ),
    ] = None,
    overrides: options.Overrides = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Fit what a model has to beat: constants of items and users, popularity, logistic regression, boosted trees.

    Each leaves predictions, a record for the leaderboard and a report, as a run does. Their columns are counted from
    earlier training rows alone.
    """
    from qin_zoo.baselines.run import prepare_baselines, run_baselines
    from qin_zoo.config.experiments import parse_overrides
    from qin_zoo.results.runs import file_of

    changes = parse_overrides(overrides) | ({} if seed is None else {"seed": seed})
    source = str(file_of(Path(source))) if source.startswith("#") else source
    prepared = prepare_baselines(source, config, data=data, overrides=changes, which=which, time_column=time)
    run_baselines(prepared, Path.cwd(), sys.argv, echo=typer.echo, overwrite=overwrite, columns=columns)
