"""A finished run, trained further on the next period's rows: what `qin-zoo continue` does beside training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from qin_zoo.config.experiments import Overrides, parse_overrides
from qin_zoo.data.dataset import Dataset, has_item_table
from qin_zoo.data.encode import is_raw
from qin_zoo.data.grown import require_same_numbers, require_same_words
from qin_zoo.data.import_files import ID_FILE
from qin_zoo.data.variations import Variation
from qin_zoo.errors import ConfigError, DataError
from qin_zoo.experiment.files import RunFiles
from qin_zoo.experiment.ownership import verify_weights
from qin_zoo.experiment.prepare import Prepared
from qin_zoo.experiment.record import kept_evaluation, read_record
from qin_zoo.experiment.repeat import as_trained, prepare_repetition
from qin_zoo.models.weights import warm_start
from qin_zoo.periods.period import Period, Replay, begin_period

# How the run before began; this one begins with that. And after how many of its batches it looked at the validation
# rows: a day has fewer batches, and is looked at once an epoch.
_OF_BEFORE = ("init_from", "encoder_file", "eval_steps")
_OF_AVERAGE = 0.25  # of the rate that averaged weights were had with


def prepare_continuation(
    record: Path, data: Path, *, name: str | None = None, overrides: Overrides = None, **options
) -> Prepared:
    """The run that trains a finished one further.

    Args:
        record: of the finished run; its weights lie beside it.
        data: folder of the next period, its files named as those of the run.
        name: of the new run. Default: the run's, with ``.p1`` behind it, ``.p2`` for the one that continues that, ….
        overrides, options: as in :func:`~qin_zoo.experiment.prepare.prepare`.

    Raises:
        QinZooError: no finished run, or anything that cannot be used.
    """
    overrides = parse_overrides(overrides)
    before = read_record(record) or {}
    folder = record.resolve().parent  # <model_root>/<dataset_id>, wherever that lies now
    changes = {
        **dict.fromkeys(_OF_BEFORE),
        **({"model_root": str(folder.parent)} if folder.name == before.get("dataset_id") else {}),
        "replay": (before.get("params") or {}).get("replay", "fesail"),
        **_rate(before, overrides),
        **overrides,
        "continues": str(record),
        "continued_weights": (before.get("sha256") or {}).get("checkpoint"),
    }
    prepared = prepare_repetition(record, data=data, overrides=changes, **options).prepared
    if prepared.params.get("sharded_tables"):
        raise ConfigError("continue: tables are not split among processes. Give --set sharded_tables=[].")
    number = _number(before)
    base = before["expid"].removesuffix(f".p{number}")
    return replace(prepared.named(name or f"{base}.p{number + 1}"), asked_for="")


def start_period(prepared: Prepared, dataset: Dataset, echo: Callable[[str], None]) -> Period:
    """Chooses and writes the training rows of a continued run, and how stale every value is.

    Raises:
        QinZooError: the run before it has changed or lost its files, or the data do not continue its data.
    """
    params = prepared.params
    path, replay = Path(params["continues"]), Replay.of(params)
    weights = path.with_suffix(".model")
    record = read_record(path) or {}
    if (record.get("sha256") or {}).get("checkpoint") != params["continued_weights"] or not weights.is_file():
        raise ConfigError(f"{path}: the run that is continued was trained again since, or is gone. Continue it anew.")
    verify_weights(weights, record)
    varied = [key for key in Variation.of(params).named if key in ("train_fraction", "unseen_items")]
    if varied := varied + [key for key in ("valid_size", "test_size") if params.get(key)]:
        what = "which rows it takes is not kept from period to period. Leave it out to continue."
        raise ConfigError(f"{varied[0]}: {what}")
    before = prepare_repetition(path, plugins=prepared.plugins).prepared
    before = as_trained(replace(before, expid=path.stem), weights, (), echo)
    if has_item_table(params) or not is_raw(params):  # raw files are encoded with the vocabularies of the run before
        old = Path(before.params["train_data"]).parent
        require_same_numbers(old, dataset.folder, record.get("numbering"))
        if not all((folder / ID_FILE).is_file() for folder in (old, dataset.folder)):
            echo(f"  {ID_FILE} is not in both folders: that numbers still stand for the same is taken for granted.")
    pool = None
    if replay.method != "none":
        pool, rows = before.open_dataset(), RunFiles(path.parent, path.stem).rows
        if (record.get("period") or {}).get("pool") and not rows.is_file():
            raise DataError(
                f"{rows} is gone: the rows that the run was trained with, of which some are to be trained again. Put "
                "it back, or continue with --replay none."
            )
        pool = pool.with_training_rows(rows) if rows.is_file() else pool
    period = begin_period(
        dataset, pool, replay, path.with_suffix(".staleness.npz"), prepared.files.staleness, prepared.files.rows
    )
    facts = period.facts
    facts["number"] = _number(record) + 1
    echo(
        f"  period {facts['number']}: {facts['rows']:,} new rows, {facts['replayed']:,} of {facts['pool']:,} earlier "
        f"ones again (replay: {replay.method}); {facts['stale_values']:,} values did not occur"
    )
    return period


def start_from(model, params: Mapping, dataset: Dataset) -> list[str]:
    """Begins a fresh model with the weights of another run (``init_from``); lines for people.

    Raises:
        DataError: a number of the data set that the weights were trained on stands for something else in this one.
    """
    weights = Path(params["init_from"])
    record, encoder = read_record(weights.with_suffix(".json")) or {}, weights.with_suffix(".encoder.json")
    compared = old = (record.get("params") or {}).get("train_data")
    if not has_item_table(params) and is_raw(params):
        compared = encoder.is_file()
        if compared:
            require_same_words(encoder, dataset.encoder_file)
    elif old:
        compared = require_same_numbers(Path(old).parent, dataset.folder, record.get("numbering"))
    told = f"{weights}: nothing says what its numbers stand for: taken for granted to be the same"
    return warm_start(model, str(weights)).lines() + ([] if compared else [told])


@torch.no_grad()
def take_over(model, prepared: Prepared, period: Period) -> list[str]:
    """The weights of the run before into a fresh model, but for rows that are retired; lines for people."""
    if period.replay.method == "all":
        return ["weights begin anew, as all rows are trained (replay: all)"]
    fresh = [(weight, rows, weight[rows]) for weight, rows in period.retired(model)]
    lines = warm_start(model, str(Path(prepared.params["continues"]).with_suffix(".model"))).lines()
    for weight, rows, values in fresh:
        weight[rows] = values
    retired = sum(len(rows) for _, rows, _ in fresh)
    return lines + ([f"{retired:,} rows of retired values begin anew"] if retired else [])


def _rate(before: Mapping, overrides: Mapping) -> dict[str, float]:
    """The learning rate at which the weights were had that are trained further, kept from the first period on.

    The one that a run begins with is for weights that know nothing yet; at 1e-3 a shop's day, of 2,600 rows, made a DIN
    worse that a run had ended at 1.3e-4. Of averaged weights it is a quarter: an average is where a lower rate leads,
    and days at the rate itself undid it (experiments/shop/README.md).
    """
    params = before.get("params") or {}
    evaluations = before.get("evaluations")
    if overrides.get("replay", params.get("replay")) == "all" or "period" in before or not evaluations:
        return {}
    rate = kept_evaluation(evaluations)["learning_rate"]
    return {"learning_rate": rate * _OF_AVERAGE if params.get("ema_decay") else rate}


def _number(record: Mapping) -> int:
    """How many periods a run has been trained further already."""
    return (record.get("period") or {}).get("number", 0)
