"""One experiment from configuration to results: what `qin-zoo run` does."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from qin_zoo.calibration import discard_calibrator, reliability
from qin_zoo.data import SPLITS
from qin_zoo.data.dataset import Dataset
from qin_zoo.data.grown import numbering
from qin_zoo.data.sample import read_summary
from qin_zoo.distributed import ALONE, Group, joined
from qin_zoo.errors import ConfigError, DataError
from qin_zoo.experiment.continued import start_from, start_period, take_over
from qin_zoo.experiment.files import RunFiles
from qin_zoo.experiment.from_data import write_configuration
from qin_zoo.experiment.ownership import owned
from qin_zoo.experiment.predict import draw_split, feed_split, predict_rows
from qin_zoo.experiment.prepare import Prepared, build_model
from qin_zoo.experiment.record import SCHEMA_VERSION, environment, identity, read_record
from qin_zoo.experiment.report import baselines_of, keep_results, verdict
from qin_zoo.experiment.submission import write_submission
from qin_zoo.experiment.tasks import is_regression
from qin_zoo.files import file_digest, replace_file
from qin_zoo.log import above_bars, log_to, silent
from qin_zoo.metrics import evaluate_metrics, metrics_text, needs_groups
from qin_zoo.models.sharded import require_engine
from qin_zoo.training.checkpoint import CheckpointStore
from qin_zoo.training.memory import denormals_as_zero, keep_freed_memory
from qin_zoo.training.stop import catch_signals
from qin_zoo.training.trackers import check_tracker, sinks_of
from qin_zoo.training.tracking import Tracker
from qin_zoo.training.trainer import Evaluation, Trainer, size_for_batch_norm

_SCORED = ("valid", "test")


def run_experiment(
    prepared: Prepared,
    results_folder: Path,
    argv: Iterable[str] = (),
    echo: Callable[[str], None] = print,
    on_evaluation: Callable[[Evaluation], None] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    notes: dict | None = None,
) -> dict:
    """Trains, evaluates, predicts the test rows, and writes everything that is kept of the run.

    Args:
        results_folder: where the results CSV (``<config folder>.csv``, as FuxiCTR names it) lies.
        argv: command line, for the CSV.
        on_evaluation: receives every evaluation.
        resume: go on where a run of the same name, parameters and data was stopped; one that is finished is not
            repeated.
        overwrite: replace another run of this name; otherwise this one is numbered (``<expid>-2``).
        notes: further entries of the record, JSON values.

    Returns:
        the run's record, as written to ``<expid>.json``.

    Started by ``torchrun`` or :func:`~qin_zoo.processes.launch.launch`, several processes train together; the first one
    writes and speaks.

    Raises:
        Stopped: Ctrl-C or SIGTERM came in training; a checkpoint has been saved.
        QinZooError: another process trains this very run; or anything that cannot be used.
    """
    with joined(prepared.params["gpu"]) as group:
        if group.active and prepared.params.get("continues"):
            raise ConfigError("continue: one process trains; run it without torchrun or --devices.")
        echo = echo if group.leads else silent
        dataset = _open(prepared, group)
        data = dataset.fingerprints()
        with owned(prepared, data, group, resume=resume, overwrite=overwrite, echo=echo) as own:
            return _run(own, dataset, group, results_folder, argv, echo, on_evaluation, resume, notes or {})


def _open(prepared: Prepared, group: Group) -> Dataset:
    if not group.leads:
        group.wait()  # the first process converts the files
    elif group.active and prepared.params.get("sharded_tables"):
        require_engine()
    dataset = prepared.open_dataset()
    for split in ("train", "valid"):
        dataset.require(split, labels=True)
    if group.leads:
        group.wait()
    return dataset


@denormals_as_zero()
def _run(
    prepared: Prepared, dataset: Dataset, group: Group, results_folder, argv, echo, on_evaluation, resume: bool, notes
) -> dict:
    from qin_zoo.experiment.curves import draw_curves

    params, files = prepared.params, prepared.files
    started = time.perf_counter()
    keep_freed_memory()
    checkpoints = CheckpointStore(files.checkpoints, warn=echo)
    interrupted = not checkpoints.is_empty()
    if resume and not interrupted and (record := finished_record(prepared, dataset)) is not None:
        echo(f"{prepared.expid} is finished already; report: {files.report}")
        return record
    model = build_model(prepared, dataset)
    _require_metrics(params, dataset)
    check_tracker(params.get("tracker"))
    if params.get("ema_decay") and params.get("embedding_optimizer") == "lazy":
        raise ConfigError(
            "ema_decay averages every row of every table in each step, which embedding_optimizer: lazy is there to "
            "spare. Leave one of them out."
        )
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if group.leads:
        files.record.unlink(missing_ok=True)  # a run that is finished has a record
        discard_calibrator(files.checkpoint)
        checkpoints.begin(resume)
        for file in (files.encoder, files.rows, files.staleness):
            file.unlink(missing_ok=True)
        if dataset.encoder_file is not None:
            with replace_file(files.encoder) as temporary:
                shutil.copyfile(dataset.encoder_file, temporary)
        if prepared.described:
            write_configuration(files.config, prepared.expid, params, prepared.described)
    group.wait()
    with log_to(files.log, append=resume and interrupted) if group.leads else nullcontext():
        logging.info(f"Parameters: {params}")
        for note in prepared.notes:
            logging.info(note)
            echo(note)
        echo(
            f"{prepared.expid}: {params['model']} with {parameters:,} parameters on {params['dataset_id']}, "
            f"{dataset.rows('train'):,} training rows, {model.device}"
        )
        if prepared.described:
            told = (f"{key} {params[key]}" for key in ("batch_size", "epochs", "learning_rate") if key in params)
            echo(f"  recipe {params['recipe']}: {', '.join(told)}, …; to go on from it: --config {files.config}")
        if params.get("data_loader"):
            echo(f"  data_loader {params['data_loader']} is not used: the zoo's own loader gives the same batches.")
        if params["shuffle"] and not prepared.is_zoo_model:
            echo("  Rows are shuffled, and dropout drawn, as in FuxiCTR (shuffle: fuxictr).")
        if interrupted and not resume:
            echo("A run of this name was stopped before its end; --resume would go on from its last checkpoint.")
        period = start_period(prepared, dataset, echo) if params.get("continues") else None
        if not (resume and interrupted):
            taken = start_from(model, params, dataset) if params.get("init_from") else []
            for line in take_over(model, prepared, period) if period else taken:
                echo(f"  {line}")
        if period:
            period.restrain(model, model.optimizer)
        if group.active:
            model.join(group)
            torch.manual_seed(params["seed"] + group.rank)  # other rows, other dropout
        rows, size = period.dataset if period else dataset, params["batch_size"]
        if period and (enough := size_for_batch_norm(model, rows.rows("train"), size)) != size:
            # how many rows a day has is nobody's choice
            echo(f"  batch_size {enough} instead of {size}, which leaves one row alone, too few for batch norm")
            rows = rows.with_batch_size(enough)
        if not resume and group.leads:
            shutil.rmtree(files.events, ignore_errors=True)
        wished = (params.get("tracker"), files.events, prepared.expid, params["dataset_id"])
        sinks = sinks_of(*wished) if group.leads else []
        with Tracker(sinks, params, dataset.has("test") and dataset.has_labels("test")) as tracker:
            trainer = _train(prepared, dataset, rows, model, checkpoints, echo, on_evaluation, tracker, resume)
            scoring = time.perf_counter()
            scored = {split: predict_rows(model, dataset, split) for split in _SCORED if dataset.has(split)}
            scoring = time.perf_counter() - scoring
            y_pred = {split: predictions for split, (predictions, _) in scored.items()}
            results = {"valid": {}, "test": {}} | {split: metrics for split, (_, metrics) in scored.items()}
            tracker.tested(results["test"])
        if "test" in y_pred and group.leads:
            write_submission(y_pred["test"], files, labels=dataset.feature_map.labels)
        record = make_record(
            prepared,
            dataset,
            y_pred,
            results,
            scoring,
            files=("checkpoint", "log", "curves", "events"),
            parameters=parameters,
            processes=group.size,
            evaluations=[e.as_dict() for e in trainer.evaluations],
            rollbacks=trainer.rollbacks,
            seconds=time.perf_counter() - started,
            **({"period": period.facts} if period else {}),
            **notes,
        )
        if not group.leads:
            return record
        best = record["reachable"] and record["reachable"]["best_auc"]
        title = f"{prepared.expid} on {params['dataset_id']}"
        draw_curves(record["evaluations"], files.curves, title, best, record["calibration"])
        keep_results(prepared, record, Path(results_folder), list(argv))
    checkpoints.clear()  # the weights are kept, and nothing is left to resume
    _tell_results(record, files, echo)
    return record


def make_record(
    prepared: Prepared, dataset: Dataset, y_pred: dict, results: dict, scoring: float, files: Iterable[str] = (), **more
) -> dict:
    """The record of a run that has been scored.

    Args:
        y_pred: split -> predictions of its rows.
        results: split -> metrics, empty where it has no labels.
        scoring: seconds that the predictions took.
        files: of :class:`~qin_zoo.experiment.files.RunFiles` those that only a run of its kind has.
        more: entries that only such a run knows.
    """
    own, params, summary = prepared.files, prepared.params, read_summary(dataset.folder)
    clicks = [] if is_regression(params) or len(dataset.feature_map.labels) > 1 else y_pred
    compared = "test" if results["test"] else "valid"
    kept = {"checkpoint": own.checkpoint, "prediction": own.prediction}
    named = dict.fromkeys((*files, "record", "report", "prediction", "submission"))
    written = [name for name in named if "test" in y_pred or name not in ("prediction", "submission")]
    return {
        "schema_version": SCHEMA_VERSION,
        "expid": prepared.expid,
        "asked_for": prepared.asked_for or prepared.expid,
        "model": params["model"],
        "dataset_id": params["dataset_id"],
        "config_dir": str(prepared.config_dir),
        "params": params,
        "rows": {split: dataset.rows(split) for split in SPLITS if dataset.has(split)},
        **results,
        "reachable": summary and {key: getattr(summary, key)["valid"] for key in ("best_auc", "blind_auc")},
        "calibration": {
            split: reliability(dataset.labels(split), y_pred[split]).as_dict()
            for split in clicks
            if dataset.has_labels(split)
        },
        "draws": draw_split(dataset, compared, y_pred[compared], params["metrics"]),
        "plugins": [str(path) for path in prepared.plugins],
        "scoring": {"rows": sum(map(len, y_pred.values())), "seconds": scoring},
        **more,
        "environment": environment(),
        "data": dataset.fingerprints(),
        "sizes": dataset.sizes(),
        "numbering": numbering(dataset.folder),
        "sha256": {name: file_digest(file) for name, file in kept.items() if file.exists()},
        "files": named | {name: str(getattr(own, name)) for name in written},
    }


def finished_record(prepared: Prepared, dataset: Dataset | None = None) -> dict | None:
    """The record of a finished run of this name with these very parameters and data; None where there is none."""
    record = read_record(prepared.files.record)
    if record is None:
        return None
    data = (dataset or prepared.open_dataset()).fingerprints()
    return record if identity(record["params"], record["data"]) == identity(prepared.params, data) else None


def _train(prepared, dataset, rows, model, checkpoints, echo, on_evaluation, tracker, resume: bool) -> Trainer:
    """Trains on the training rows of ``rows``, with checkpoints. It leaves the best weights in the model."""
    params, echo = prepared.params, above_bars(echo)

    def show(e: Evaluation) -> None:
        metrics = "  ".join(f"{k} {v:.4f}" for k, v in e.metrics.items())
        echo(
            f"epoch {e.epoch:>3}  train loss {e.train_loss:.4f}  valid {metrics}  lr {e.learning_rate:.1e}  "
            f"{e.seconds:.0f} s{'  *' if e.best else ''}"
        )
        tracker.evaluation(e)
        if on_evaluation:
            on_evaluation(e)

    def say(text: str) -> None:
        logging.info(text)
        echo(text)

    same = identity(params, dataset.fingerprints())
    same["parameters"].pop("epochs")  # more or fewer of them make no difference up to here
    group = getattr(model, "group", ALONE)
    with catch_signals(3 if group.active else 1) as stop:
        trainer = Trainer(
            model,
            params["epochs"],
            params["max_gradient_norm"],
            on_evaluation=show,
            on_steps=tracker.steps,
            checkpoints=checkpoints,
            checkpoint_steps=params["checkpoint_steps"],
            identity=same,
            on_nan=params["on_nan"],
            ema_decay=params.get("ema_decay"),
            stop=stop,
            say=say,
        )
        trainer.fit(feed_split(rows, "train", model), feed_split(dataset, "valid", model), resume)
    return trainer


def _tell_results(record: dict, files: RunFiles, echo: Callable[[str], None]) -> None:
    for split in ("valid", "test"):
        if record[split]:
            echo(f"{split:>5}: {metrics_text(record[split])}")
    if reachable := record["reachable"]:
        echo(f"best reachable valid AUC {reachable['best_auc']:.4f}, without the history {reachable['blind_auc']:.4f}")
    echo(verdict(record, baselines_of(record)).replace("**", ""))
    submission = record["files"]["submission"]
    echo(f"report: {files.report}" + (f"   submission: {submission}" if submission else ""))


def _require_metrics(params: dict, dataset: Dataset) -> None:
    """Finds out before the training, not after an epoch, whether its metrics can be computed on the validation rows."""
    monitor = params["monitor"]
    names, y_true = [monitor] if isinstance(monitor, str) else list(monitor), dataset.labels("valid")
    metrics = list(dict.fromkeys([*params["metrics"], *names]))
    values = evaluate_metrics(y_true, np.full(len(y_true), 0.5), metrics, dataset.group_ids("valid"))
    for name in names:
        if not np.isfinite(values[name]):
            within = " in one group" if needs_groups(name) else ""
            raise DataError(
                f"The monitored metric {name} is not a number on the validation split, whatever is predicted: it needs "
                f"rows with and without a click{within}. Use another valid_data, or another monitor."
            )
