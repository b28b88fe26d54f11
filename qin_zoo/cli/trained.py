"""What commands on a trained model have in common: which run they are about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qin_zoo.errors import ConfigError

if TYPE_CHECKING:
    from qin_zoo.experiment.prepare import Prepared

Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Experiment id; or a run by name, DATASET/NAME, short id (#4e15, see `qin-zoo runs`) or record.",
    ),
]
Checkpoint = Annotated[Path | None, typer.Option(help="Weights to use. Default: those of the experiment.")]


def find_record(run: str, config: Path | None = None, overrides: Iterable[str] | None = None) -> Path | None:
    """The record of a trained run; None for an experiment, whose record is looked up by its configuration.

    Args:
        run: experiment id, or name, ``DATASET/NAME``, short id or record of a run.
        config: folder with ``model_config.yaml``, in which ``run`` is an experiment.
        overrides: ``KEY=VALUE``; a ``model_root`` is where runs are looked for.

    Raises:
        QinZooError: there is neither such an experiment nor such a run, or there are several.
    """
    from qin_zoo.config.experiments import parse_overrides, resolve_experiment
    from qin_zoo.results.runs import ROOTS, find_runs, resolve_one

    if run.endswith(".json"):
        return Path(run)
    root = Path(str(parse_overrides(overrides or []).get("model_root", ROOTS[0])))
    if not run.startswith("#"):
        try:
            resolve_experiment(run, config)
            return None
        except ConfigError:
            if config is not None or not any(found.is_called(run) for found in find_runs([root])):
                raise
    return resolve_one(run, [root]).file


def find_run(run: str, config: Path | None, checkpoint: Path | None, **options) -> tuple[Prepared, Path]:
    """The experiment of a run and the file of its weights.

    Args:
        run: see :func:`find_record`.
        config: folder with ``model_config.yaml``; of no meaning with a record.
        checkpoint: weights in the place of the run's own.
        options: as of :func:`~qin_zoo.experiment.prepare.prepare`.

    Raises:
        QinZooError: there is no such run, or its weights are not those that its record was written for.
    """
    from qin_zoo.experiment.ownership import verify_weights
    from qin_zoo.experiment.prepare import prepare
    from qin_zoo.experiment.repeat import as_trained, prepare_repetition

    record = find_record(run, config, options.get("overrides"))
    if record is not None:
        repetition = prepare_repetition(record, **options)
        prepared, own = replace(repetition.prepared, expid=repetition.record["expid"]), record.with_suffix(".model")
    else:
        prepared = prepare(run, config, **options)
        own = prepared.files.checkpoint
    given = [text.partition("=")[0].strip() for text in options.get("overrides") or []]
    prepared = as_trained(prepared, checkpoint or own, given, typer.echo)
    verify_weights(checkpoint or own)
    return prepared, checkpoint or own
