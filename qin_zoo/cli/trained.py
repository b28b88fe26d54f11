"""What commands on a trained model have in common: which run they are about; imported when it is used."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from qin_zoo.experiment.prepare import Prepared

Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Experiment id; a run by name, DATASET/NAME, short id (#4e15, see `qin-zoo runs`) or record; with --data "
        "a model's name, too.",
    ),
]
Checkpoint = Annotated[Path | None, typer.Option(help="Weights to use. Default: those of the experiment.")]


def find_record(run: str, config: Path | None = None, overrides: Iterable[str] | None = None) -> Path | None:
    """:func:`qin_zoo.results.trained.find_record`."""
    from qin_zoo.results import trained

    return trained.find_record(run, config, overrides)


def find_run(run: str, config: Path | None, checkpoint: Path | None, **options) -> tuple[Prepared, Path]:
    """:func:`qin_zoo.results.trained.find_run`."""
    from qin_zoo.results import trained

    return trained.find_run(run, config, checkpoint, echo=typer.echo, **options)
