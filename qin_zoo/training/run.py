"""One experiment from configuration to results: what `qin-zoo run` and `qin-zoo predict` do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path

from qin_zoo.data.dataset import SPLITS, Dataset
from qin_zoo.data.feed import feed
from qin_zoo.data.sample import read_summary
from qin_zoo.errors import ConfigError, QinZooError
from qin_zoo.training.memory import keep_freed_memory
from qin_zoo.training.prepare import Prepared, RunFiles, build_model
from qin_zoo.training.record import SCHEMA_VERSION, append_results_line, environment, write_record
from qin_zoo.training.report import write_report
from qin_zoo.training.submission import write_submission
from qin_zoo.training.trainer import Evaluation, Trainer


def run_experiment(
    prepared: Prepared,
    results_folder: Path,
    argv: Iterable[str] = (),
    echo: Callable[[str], None] = print,
    on_evaluation: Callable[[Evaluation], None] | None = None,
) -> dict:
    """Trains, evaluates, predicts the test rows, and writes everything that is kept of the run.

    Args:
        prepared: the experiment.
        results_folder: where the results CSV (``<config folder>.csv``, as FuxiCTR names it) lies.
        argv: command line, for the CSV.
        echo: receives what a person wants to see.
        on_evaluation: receives every evaluation.

    Returns:
        the run's record, as written to ``<expid>.json``.
    """
    from qin_zoo.training.curves import draw_curves

    params, files = prepared.params, prepared.files
    started = time.perf_counter()
    keep_freed_memory()
    dataset = prepared.open_dataset()
    for split in ("train", "valid"):
        dataset.require(split, labels=True)
    model = build_model(prepared, dataset)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    _require_writable(files.folder)
    with _log_to(files.log):
        logging.info(f"Parameters: {params}")
        echo(
            f"{prepared.expid}: {params['model']} with {parameters:,} parameters on {params['dataset_id']}, "
            f"{dataset.rows('train'):,} training rows, {model.device}"
        )
        train, valid = (feed(dataset.loader(split), model.device) for split in ("train", "valid"))

        def show(e):
            metrics = "  ".join(f"{k} {v:.4f}" for k, v in e.metrics.items())
            echo(
                f"epoch {e.epoch:>3}  train loss {e.train_loss:.4f}  valid {metrics}  lr {e.learning_rate:.1e}  "
                f"{e.seconds:.0f} s{'  *' if e.best else ''}"
            )
            if on_evaluation:
                on_evaluation(e)

        trainer = Trainer(model, params["epochs"], params["max_gradient_norm"], on_evaluation=show)
        evaluations = trainer.fit(train, valid)
        results = {"valid": _plain(model.evaluate(valid)), "test": {}}
        has_test = dataset.has("test")
        if has_test:
            y_pred = _predict(model, dataset, "test", results)
            write_submission(y_pred, files.prediction, files.submission)
        reachable = _reachable(dataset)
        record = {
            "schema_version": SCHEMA_VERSION,
            "expid": prepared.expid,
            "model": params["model"],
            "dataset_id": params["dataset_id"],
            "config_dir": str(prepared.config_dir),
            "params": params,
            "parameters": parameters,
            "rows": {split: dataset.rows(split) for split in SPLITS if dataset.has(split)},
            "valid": results["valid"],
            "test": results["test"],
            "reachable": reachable,
            "evaluations": [e.as_dict() for e in evaluations],
            "seconds": time.perf_counter() - started,
            "environment": environment(),
            "data": dataset.fingerprints(),
            "files": {
                "checkpoint": str(files.checkpoint),
                "log": str(files.log),
                "record": str(files.record),
                "report": str(files.report),
                "curves": str(files.curves),
                "prediction": str(files.prediction) if has_test else None,
                "submission": str(files.submission) if has_test else None,
            },
        }
        title = f"{prepared.expid} on {params['dataset_id']}"
        draw_curves(evaluations, files.curves, title, reachable and reachable["best_auc"])
        write_record(files.record, record)
        write_report(files.report, record)
        append_results_line(
            Path(results_folder) / f"{prepared.config_dir.name}.csv",
            list(argv),
            prepared.expid,
            params["dataset_id"],
            results["valid"],
            results["test"],
        )
    for split, metrics in results.items():
        if metrics:
            echo(f"{split:>5}: " + "  ".join(f"{k} {v:.6f}" for k, v in metrics.items()))
    if reachable:
        echo(f"best reachable valid AUC {reachable['best_auc']:.4f}, without the history {reachable['blind_auc']:.4f}")
    echo(f"report: {files.report}" + (f"   submission: {files.submission}" if has_test else ""))
    return record


def predict_split(
    prepared: Prepared,
    split: str = "test",
    checkpoint: Path | None = None,
    out: Path | None = None,
    echo: Callable[[str], None] = print,
) -> RunFiles:
    """Predicts a split with trained weights; writes predictions and submission.

    Args:
        prepared: the experiment.
        split: ``train``, ``valid`` or ``test``.
        checkpoint: weights. Default: the experiment's own.
        out: folder for the files. Default: beside the experiment's weights.
        echo: receives what a person wants to see.

    Returns:
        where the files were written; splits other than test carry their name.
    """
    if split not in SPLITS:
        raise ConfigError(f"Unknown split '{split}': expected {', '.join(SPLITS)}.")
    keep_freed_memory()
    dataset = prepared.open_dataset()
    dataset.require(split)
    model = build_model(prepared, dataset)
    model.load_weights(str(checkpoint or prepared.files.checkpoint))
    expid = prepared.expid if split == "test" else f"{prepared.expid}.{split}"
    files = RunFiles(Path(out) if out else prepared.files.folder, expid)
    results: dict = {}
    y_pred = _predict(model, dataset, split, results)
    write_submission(y_pred, files.prediction, files.submission)
    if results.get(split):
        echo(f"{split}: " + "  ".join(f"{k} {v:.6f}" for k, v in results[split].items()))
    echo(f"{len(y_pred):,} predictions: {files.prediction}   submission: {files.submission}")
    return files


def _predict(model, dataset: Dataset, split: str, results: dict):
    """Predictions of a split in row order; its metrics go into ``results`` where it has labels."""
    y_pred = model.predict(feed(dataset.loader(split, shuffle=False), model.device))
    if dataset.has_labels(split):
        y_true, group_id = dataset.labels(split), dataset.group_ids(split)
        results[split] = _plain(model.evaluate_metrics(y_true, y_pred, model.validation_metrics, group_id))
    return y_pred


def _reachable(dataset: Dataset) -> dict[str, float] | None:
    """The best reachable valid AUC, with and without the history, of a sample dataset; None of any other."""
    summary = read_summary(dataset.folder)
    return summary and {"best_auc": summary.best_auc["valid"], "blind_auc": summary.blind_auc["valid"]}


def _plain(metrics: dict) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def _require_writable(folder: Path) -> None:
    """Finds out before the training, not after it, whether results can be written."""
    probe = folder / ".write-test"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise QinZooError(
            f"Cannot write to {folder}: {error.strerror}. Results go to <model_root>/<dataset_id>/; choose another "
            "folder with --set model_root=FOLDER."
        ) from error


@contextmanager
def _log_to(path: Path):
    """Sends this process's log, FuxiCTR's included, to a file."""
    root = logging.getLogger()
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s P%(process)d %(levelname)s %(message)s"))
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()
