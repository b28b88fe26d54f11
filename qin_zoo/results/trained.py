"""Which trained run a command, or a call from Python, is about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from qin_zoo.config.experiments import Overrides, parse_overrides, resolve_experiment
from qin_zoo.errors import ConfigError
from qin_zoo.experiment.from_data import is_model
from qin_zoo.experiment.ownership import verify_weights
from qin_zoo.experiment.prepare import Prepared, prepare
from qin_zoo.experiment.record import read_record
from qin_zoo.experiment.repeat import as_trained, prepare_repetition
from qin_zoo.files import file_digest
from qin_zoo.results.runs import ROOTS, find_runs, resolve_one


def find_record(run: str, config: Path | None = None, overrides: Overrides = None) -> Path | None:
    """The record of a trained run; None for an experiment, whose record is looked up by its configuration.

    Args:
        run: experiment id, or name, ``DATASET/NAME``, short id or record of a run.
        config: folder with ``model_config.yaml``, in which ``run`` is an experiment.
        overrides: parameters, or ``KEY=VALUE``; a ``model_root`` is where runs are looked for.

    Raises:
        QinZooError: there is neither such an experiment nor such a run, or there are several.
    """
    if run.endswith(".json"):
        return Path(run)
    root = Path(str(parse_overrides(overrides).get("model_root", ROOTS[0])))
    if not run.startswith("#"):
        try:
            resolve_experiment(run, config)
            return None
        except ConfigError:
            if config is not None or not any(found.is_called(run) for found in find_runs([root])):
                raise
    return resolve_one(run, [root]).file


def find_run(
    run: str,
    config: Path | None = None,
    checkpoint: Path | None = None,
    *,
    echo: Callable[[str], None] = print,
    **options,
) -> tuple[Prepared, Path]:
    """The experiment of a run and the file of its weights.

    Args:
        run: see :func:`find_record`; or the name of a model, trained on the ``data`` of the options.
        config: folder with ``model_config.yaml``; of no meaning with a record.
        checkpoint: weights in the place of the run's own. A copy of these, with no record beside it, is known by its
            SHA-256, and used as they are.
        options: as of :func:`~qin_zoo.experiment.prepare.prepare`.

    Raises:
        QinZooError: there is no such run, or its weights are not those that its record was written for.
    """
    overrides = options.get("overrides")
    of_model = config is None and options.get("data") is not None and is_model(run, options.get("plugins"))
    record = None if of_model else find_record(run, config, overrides)
    if record is not None:
        repetition = prepare_repetition(record, **options)
        prepared, own = replace(repetition.prepared, expid=repetition.record["expid"]), record.with_suffix(".model")
    else:
        prepared = prepare(run, config, **options)
        own = prepared.files.checkpoint
    weights = checkpoint or own
    prepared = as_trained(prepared, own if _is_copy(weights, own) else weights, parse_overrides(overrides), echo)
    verify_weights(weights)
    return prepared, weights


def _is_copy(weights: Path, own: Path) -> bool:
    """Whether weights without a record are those that a run's record was written for."""
    if weights == own or weights.with_suffix(".json").exists() or not weights.is_file():
        return False
    record = read_record(own.with_suffix(".json")) or {}
    return (record.get("sha256") or {}).get("checkpoint") == file_digest(weights)
