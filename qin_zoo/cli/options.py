"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Experiment id; a run by name, DATASET/NAME, short id (#4e15, see `qin-zoo runs`) or record; with --data "
        "a model's name, too.",
    ),
]
Checkpoint = Annotated[Path | None, typer.Option(help="Weights to use. Default: those of the experiment.")]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="Folder with model_config.yaml; by default the experiment is looked up by its id."),
]
Gpu = Annotated[int, typer.Option("--gpu", help="Index of the GPU, -1 for the CPU.")]
Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", help="File or folder with further models; may be repeated.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Overrides a parameter of the experiment; may be repeated."),
]
Data = Annotated[
    Path | None, typer.Option("--data", help="Folder that holds the dataset's files, instead of the configured one.")
]
Strict = Annotated[
    bool, typer.Option("--strict", help="A key that a model from elsewhere does not know is an error, not a warning.")
]
Name = Annotated[
    str | None,
    typer.Option("--name", help="Name of the run and its files. Default: the experiment's, or the old run's and .p1 …"),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where it was stopped, to the very same result.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace another run of this name; else this one is numbered.")
]
Replay = Annotated[
    Literal["fesail", "random", "none", "all"] | None,
    typer.Option(help="Earlier rows that are trained again. Default: as the run before, or fesail."),
]
Split = Annotated[str, typer.Option(help="train, valid or test.")]
Output = Annotated[Path | None, typer.Option(help="Folder for the files. Default: beside the weights.")]
Gpus = Annotated[list[int] | None, typer.Option("--gpu", help="Index of a GPU; repeat it to train on several at once.")]
Workers = Annotated[int, typer.Option(min=1, help="Trainings at once without a GPU.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def changes(overrides: list[str] | None, strict: bool) -> list[str]:
    """What ``--set`` and ``--strict`` change of the parameters, as ``KEY=VALUE``."""
    return [*(overrides or []), *(["strict=true"] if strict else [])]
