"""What commands on a trained model have in common: which run they are about."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from qin_zoo.experiment.prepare import Prepared

Run = Annotated[str, typer.Argument(metavar="RUN", help="Experiment id, or a run's record, <expid>.json.")]
Checkpoint = Annotated[Path | None, typer.Option(help="Weights to use. Default: those of the experiment.")]


def find_run(run: str, config: Path | None, checkpoint: Path | None, **options) -> tuple[Prepared, Path]:
    """The experiment of a run and the file of its weights.

    Args:
        run: experiment id, or the path of a run's record, beside which its weights lie.
        config: folder with ``model_config.yaml``; of no meaning with a record.
        checkpoint: weights in the place of the run's own.
        options: as of :func:`~qin_zoo.experiment.prepare.prepare`.

    Raises:
        QinZooError: there is no such run, or its weights are not those that its record was written for.
    """
    from qin_zoo.experiment.ownership import verify_weights
    from qin_zoo.experiment.prepare import prepare
    from qin_zoo.experiment.repeat import as_trained, prepare_repetition

    if run.endswith(".json"):
        repetition = prepare_repetition(Path(run), **options)
        prepared, own = replace(repetition.prepared, expid=repetition.record["expid"]), Path(run).with_suffix(".model")
    else:
        prepared = prepare(run, config, **options)
        own = prepared.files.checkpoint
    given = [text.partition("=")[0].strip() for text in options.get("overrides") or []]
    prepared = as_trained(prepared, checkpoint or own, given, typer.echo)
    verify_weights(checkpoint or own)
    return prepared, checkpoint or own
