"""Baselines from a configuration, or from the record of a run, to records like any run's: `qin-zoo baseline`."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from qin_zoo.baselines.columns import write_columns
from qin_zoo.baselines.models import BASELINES, Baseline, Data
from qin_zoo.baselines.rows import View
from qin_zoo.config.blocks import ExperimentParams, check_id
from qin_zoo.config.experiments import (
    Overrides,
    apply_overrides,
    check_params,
    find_dataset,
    find_experiments,
    load_experiment,
    parse_overrides,
    resolve_experiment,
)
from qin_zoo.config.schema import known_params
from qin_zoo.data import SPLITS
from qin_zoo.data.columns import open_table
from qin_zoo.data.dataset import Dataset, relocate, tables_beside
from qin_zoo.data.describe import user_column
from qin_zoo.distributed import ALONE
from qin_zoo.errors import ConfigError, DataError, suggest
from qin_zoo.experiment.from_data import describe_data
from qin_zoo.experiment.ownership import owned
from qin_zoo.experiment.prepare import Prepared
from qin_zoo.experiment.record import read_record, require_record
from qin_zoo.experiment.report import keep_results, write_report
from qin_zoo.experiment.run import make_record
from qin_zoo.experiment.submission import write_submission
from qin_zoo.experiment.tasks import CLICKS, tasks
from qin_zoo.metrics import evaluate_metrics

_DEFAULTS = {"seed": 1029, "model_root": "./checkpoints/", "epochs": 1, "batch_size": 1024, "shuffle": False}
# What is of the models that are trained, and changes no baseline.
_OF_TRAINING = {
    "model", "model_id", "gpu", "init_from", "strict", "debug_mode", "epochs", "batch_size", "shuffle", "num_workers",
    "optimizer", "learning_rate", "loss", "max_gradient_norm", "accumulation_steps", "checkpoint_steps", "on_nan",
    "ema_decay", "reduce_lr_on_plateau", "factor", "min_lr", "embedding_dim", "embedding_initializer",
    "embedding_regularizer", "net_regularizer", "early_stop_patience", "eval_steps", "save_best_only", "data_loader",
    "monitor", "monitor_mode", "verbose",
}  # fmt: skip
_LIKELY_ORDER = (0.25, 0.75)  # how well the place in the file may tell clicks apart, as an AUC


def prepare_baselines(
    source: str,
    config_dir: Path | None = None,
    *,
    data: Path | None = None,
    overrides: Overrides = None,
    which: Iterable[str] | None = None,
    time_column: str | None = None,
) -> list[Prepared]:
    """Reads and checks what baselines are to be fitted to; touches no data and writes nothing.

    Args:
        source: an experiment id, the record of a run, a folder of data, or a dataset id.
        config_dir: folder of the configuration. Default: found by the id.
        data: folder that replaces the configured folder of the dataset's files.
        overrides: parameters, or ``key=value`` texts.
        which: names of baselines. Default: that of the record, if it is one's, or all.
        time_column: column of the training file that says when a row happened. Default: rows stand in the order of
            time.

    Raises:
        QinZooError: anything in configuration or command line that cannot be used.
    """
    params, found_in, recorded = _params_of(source, config_dir)
    time_column = time_column or (params.get("settings") or {}).get("time")
    params = {key: value for key, value in params.items() if key in known_params() and key not in _OF_TRAINING}
    params = apply_overrides({**_DEFAULTS, **params}, {**parse_overrides(overrides), "strict": True})
    if tasks(params) != [CLICKS]:
        raise ConfigError(f"Baselines predict one label that is a click; the task is {params['task']}.")
    params = check_params(params, Baseline)
    if data is not None:
        params = relocate(params, data)
    params = ExperimentParams({**params, **tables_beside(params)})
    check_id(params["dataset_id"], "dataset_id")
    if params.get("group_id") is None:
        params["group_id"] = user_column(params)
    params.setdefault("metrics", ["AUC", "gAUC", "logloss"] if params["group_id"] else ["AUC", "logloss"])
    prepared = []
    for name in which or ([recorded] if recorded else BASELINES):
        if name not in BASELINES:
            raise ConfigError(f"No baseline '{name}'.{suggest(name, BASELINES)} There are: {', '.join(BASELINES)}.")
        expid = f"{name}_{params['dataset_id']}"
        settings = {**BASELINES[name].settings, "time": time_column}
        own = {"model": name, "model_id": expid, "gpu": -1, "settings": settings}
        prepared.append(Prepared(expid, ExperimentParams({**params, **own}), BASELINES[name], found_in))
    return prepared


def _params_of(source: str, config_dir: Path | None) -> tuple[Mapping, Path, str | None]:
    """Parameters, the folder of their configuration, and the baseline whose record it is."""
    path = Path(source)
    if path.suffix == ".json":
        record = require_record(path)
        baseline = record["model"] if record["model"] in BASELINES else None
        return record["params"], Path(record.get("config_dir") or "."), baseline
    if path.is_dir():
        return describe_data(path), path, None
    experiments = {experiment.expid for experiment in find_experiments(problems=[])}
    if config_dir is None and source not in experiments:
        try:
            return {**find_dataset(source, Path(".")).values, "dataset_id": source}, Path("."), None
        except ConfigError as error:
            raise ConfigError(f"No experiment '{source}'.{suggest(source, experiments)} {error}") from None
    folder = resolve_experiment(source, config_dir)
    return load_experiment(folder, source), folder, None


def run_baselines(
    prepared: list[Prepared],
    results_folder: Path,
    argv: Iterable[str] = (),
    echo: Callable[[str], None] = print,
    overwrite: bool = False,
    columns: Path | None = None,
) -> list[dict]:
    """Fits baselines to one dataset and writes of each what is kept of a run; renews the reports of the runs beside.

    Args:
        prepared: of :func:`prepare_baselines`.
        results_folder: where the results CSV lies.
        argv: command line, for the CSV.
        overwrite: replace another run of the same name; otherwise this one is numbered.
        columns: folder for a dataset that has their columns besides.

    Returns:
        the records.

    Raises:
        QinZooError: the data cannot be used.
    """
    params = prepared[0].params
    dataset = Dataset(params)
    for split in ("train", "valid"):
        dataset.require(split, labels=True)
    if len(labels := dataset.feature_map.labels) > 1:
        raise ConfigError(
            f"Baselines predict one label, and the data has {len(labels)}: {', '.join(labels)}. Leave one of them, as "
            f"in --set 'label_col={{name: {labels[0]}, dtype: float}}'."
        )
    view = View(dataset, params)
    labelled = [split for split in SPLITS if dataset.has(split) and dataset.has_labels(split)]
    label = {split: dataset.labels(split)[dataset.used_rows(split)] for split in labelled}
    if _one_class(label["train"]):
        raise DataError(
            f"{params['train_data']}: expected rows with a click and rows without, found {len(label['train']):,} with "
            f"label {label['train'][0]:g}: there is nothing to learn. Use another train_data."
        )
    data = Data(view, label, _when(params, dataset, label["train"], echo), params["seed"])
    if view.user is None:
        echo("Nobody says whose rows these are (--set group_id=COLUMN): nothing is counted of users.")
    if columns is not None:
        write_columns(params, dataset, data, columns, echo)
    records = []
    for one in prepared:
        if why := _why_not(BASELINES[one.params["model"]], data):
            echo(f"{one.expid}: left out, as {why}.")
            continue
        with owned(one, dataset.fingerprints(), ALONE, overwrite=overwrite, echo=echo) as own:
            records.append(_run(own, dataset, data, echo))
            keep_results(own, records[-1], results_folder, list(argv))
    _renew_reports(records, echo)
    return records


def _why_not(baseline: type[Baseline], data: Data) -> str | None:
    """Why a baseline cannot be fitted to these rows; None where it can."""
    if baseline.needs_item and not data.view.forms.get("item"):
        return "the rows name no item (--set target_field=FEATURE)"
    if baseline.needs_both and _one_class(data.label["valid"]):
        return "the validation rows are all with a click, or all without"
    if baseline.needs_columns and _one_class(data.label["train"][data.with_a_past]):
        return "the training rows after the first ones, of which it counts, are all with a click, or all without"
    return None


def _one_class(label: np.ndarray) -> bool:
    return bool((label == label[0]).all())


def _run(prepared: Prepared, dataset: Dataset, data: Data, echo) -> dict:
    params, baseline = prepared.params, prepared.model_class()
    before = data.seconds if baseline.needs_columns else 0.0  # columns that were made for another one count, too
    started = time.perf_counter() - before
    predict = baseline.fit(data)
    scoring = time.perf_counter()
    y_pred = {s: np.asarray(predict(s), np.float64) for s in ("valid", "test") if dataset.has(s)}
    scoring = time.perf_counter() - scoring
    results: dict[str, dict] = {"valid": {}, "test": {}}
    for split in y_pred.keys() & data.label.keys():
        groups = dataset.group_ids(split)
        results[split] = evaluate_metrics(data.label[split], y_pred[split], params["metrics"], groups)
    if "test" in y_pred:
        write_submission(y_pred["test"], prepared.files)
    record = make_record(
        prepared, dataset, y_pred, results, scoring, baseline=baseline.about, chosen=baseline.chosen,
        parameters=baseline.parameters, processes=1, evaluations=[], rollbacks=[],
        seconds=time.perf_counter() - started,
    )  # fmt: skip
    record["environment"]["lightgbm"] = importlib.metadata.version("lightgbm")
    split = "test" if record["test"] else "valid"
    values = "  ".join(f"{name} {value:.4f}" for name, value in record[split].items())
    echo(f"{prepared.expid:<32} {split} {values}   {record['seconds']:.1f} s")
    return record


def _when(params: Mapping, dataset: Dataset, label: np.ndarray, echo) -> np.ndarray:
    """(n,) when each of the training rows that are used happened."""
    used, column = dataset.used_rows("train"), params["settings"]["time"]
    if column is not None:
        table = open_table(params["train_data"], {column: "int"}, cache_dir=params.get("cache_dir"))
        return table[column].take(used)
    clicked = np.flatnonzero(label)
    before = clicked.mean() - (len(clicked) - 1) / 2  # others before a click, on average: its AUC by Mann and Whitney
    auc = before / max(len(label) - len(clicked), 1)
    if _LIKELY_ORDER[0] <= auc <= _LIKELY_ORDER[1] or not 0 < len(clicked) < len(label):
        echo("No --time column: the training rows are taken to stand in the order of time.")
        return np.arange(len(used))
    echo("The training rows are sorted by their label, so their order tells no time: a random one is taken. (--time)")
    return np.random.default_rng(params["seed"]).permutation(len(used))


def _renew_reports(baselines: list[dict], echo) -> None:
    """Reports of the runs beside the baselines say whether they beat them."""
    renewed = 0
    folders = {Path(record["files"]["record"]).parent for record in baselines}
    for record in filter(None, (read_record(file) for folder in folders for file in sorted(folder.glob("*.json")))):
        report = Path(str(record.get("files", {}).get("report")))
        if not record.get("baseline") and report.is_file():
            write_report(report, record)
            renewed += 1
    if renewed:
        echo(f"{renewed} reports of runs beside them say now whether they beat these.")
