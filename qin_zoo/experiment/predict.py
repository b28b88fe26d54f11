"""Predictions of trained models: what `qin-zoo predict` does, and whatever else scores a split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from qin_zoo.bootstrap import draw_users, numbered
from qin_zoo.calibration import Calibrator, calibration_file, read_calibrator
from qin_zoo.data import SPLITS
from qin_zoo.data.dataset import Dataset
from qin_zoo.data.feed import feed
from qin_zoo.distributed import ALONE
from qin_zoo.errors import ConfigError, DataError, QinZooError
from qin_zoo.experiment.files import RunFiles
from qin_zoo.experiment.prepare import Prepared, build_model
from qin_zoo.experiment.submission import write_submission
from qin_zoo.metrics import metrics_text
from qin_zoo.training.memory import keep_freed_memory


def predict_split(
    prepared: Prepared,
    split: str = "test",
    checkpoint: Path | None = None,
    out: Path | None = None,
    echo: Callable[[str], None] = print,
    others: Sequence[tuple[Prepared, Path]] = (),
) -> RunFiles:
    """Predicts a split with trained weights; writes predictions and submission.

    Of a train split of which only a part is used (``train_fraction``, ``unseen_items``), that part: the ``ID`` of a
    prediction is its row in the file.

    Args:
        split: ``train``, ``valid`` or ``test``.
        checkpoint: weights. Default: the experiment's own.
        out: folder for the files. Default: beside the weights, wherever they lie.
        others: further experiments and their weights, each with its own features of the same rows: what is written is
            the mean of all predictions (Lakshminarayanan et al., NeurIPS 2017).

    Returns:
        where the files were written; splits other than test carry their name, and means ``mean-of-<how many>``.

    Raises:
        QinZooError: an experiment, its data or its weights cannot be used, a prediction is not a number, or the rows
            of one are not those of another.
    """
    if split not in SPLITS:
        raise ConfigError(f"Unknown split '{split}': expected {', '.join(SPLITS)}.")
    keep_freed_memory()
    all_of_them = ((prepared, Path(checkpoint or prepared.files.checkpoint)), *others)
    datasets = [one.open_dataset() for one, _ in all_of_them]
    for dataset in datasets:
        dataset.require(split)
    for (other, _), theirs in zip(others, datasets[1:]):
        _require_same_rows(datasets[0], theirs, split, prepared.expid, other.expid)
    y_pred, metrics = [], {}
    for dataset, (one, weights) in zip(datasets, all_of_them):
        model = build_model(one, dataset)
        model.load_weights(str(weights))
        if (calibrator := read_calibrator(weights)) is not None:
            echo(f"calibrated: {calibrator.method}, {calibration_file(weights)}")
        found, metrics = predict_rows(model, dataset, split, calibrator)
        y_pred.append(found)
        if others:
            _tell(metrics, f"{one.expid}, {split}", echo)
    dataset, y_pred = datasets[0], np.mean(y_pred, axis=0)
    if others and metrics:
        metrics = metrics_of(model, dataset, split, y_pred)
    name = f"{prepared.expid}.mean-of-{len(all_of_them)}" if others else prepared.expid
    files = RunFiles(Path(out or all_of_them[0][1].parent), name if split == "test" else f"{name}.{split}")
    rows, labels = dataset.used_rows(split), dataset.feature_map.labels
    write_submission(y_pred, files, rows, labels)
    if len(rows) and rows[-1] >= len(rows):
        echo(f"{len(rows):,} rows of the {split} split, those that the run uses; their IDs are rows of the file")
    _tell(metrics, f"mean of {len(all_of_them)}, {split}" if others else split, echo)
    echo(f"{len(y_pred):,} predictions: {files.prediction}   submission: {files.submission}")
    return files


def _tell(metrics: dict[str, float], of: str, echo: Callable[[str], None]) -> None:
    if metrics:
        echo(f"{of}: {metrics_text(metrics)}")


def _require_same_rows(dataset: Dataset, other: Dataset, split: str, name: str, other_name: str) -> None:
    """Raises DataError unless two datasets hold, as far as labels and users tell, the same rows of a split."""

    def told(of: Dataset) -> list[np.ndarray]:
        rows, users = of.used_rows(split), of.group_ids(split)
        labels = [of.labels(split, name)[rows] for name in of.feature_map.labels] if of.has_labels(split) else []
        return [rows, *([] if users is None else [numbered(users[rows])[0]]), *labels]

    ours, theirs = told(dataset), told(other)
    same = dataset.feature_map.labels == other.feature_map.labels and len(ours) == len(theirs)
    if not (same and all(np.array_equal(*pair, equal_nan=True) for pair in zip(ours, theirs))):
        raise DataError(
            f"The mean of {name} and {other_name} needs the same rows of the {split} split in the same order, with the "
            f"same users and labels; found {len(dataset.used_rows(split)):,} and {len(other.used_rows(split)):,} rows "
            f"with labels {dataset.feature_map.labels} and {other.feature_map.labels}, which differ. Give runs on one "
            "dataset, or on datasets that differ in their features alone."
        )


def feed_split(dataset: Dataset, split: str, model, shuffle: bool | None = None):
    """A split's batches where the model computes: this process's share of them."""
    loader, group = dataset.loader(split, shuffle), getattr(model, "group", ALONE)
    loader.take_share(group.rank, group.size)
    return feed(loader, model.device)


def predict_rows(
    model, dataset: Dataset, split: str, calibrator: Calibrator | None = None
) -> tuple[np.ndarray, dict[str, float]]:
    """Predictions of a split's used rows in their order, and their metrics where they have labels.

    Args:
        split: ``train``, ``valid`` or ``test``.
        calibrator: of the predictions. Default: they are the model's.

    Returns:
        of the rows ``dataset.used_rows(split)`` (N,) float64, or (N, L), a column for each label, of a model that
        predicts several; metric -> value. Metrics of several labels are named ``<label>_<metric>``, and their means
        ``<metric>``, as in FuxiCTR.

    Raises:
        QinZooError: a prediction is NaN or infinite.
    """
    y_pred, labels = model.predict(feed_split(dataset, split, model, shuffle=False)), dataset.feature_map.labels
    if isinstance(y_pred, dict):
        y_pred = np.stack([np.asarray(y_pred[label], np.float64) for label in labels], axis=1)
    if len(broken := np.flatnonzero(~np.isfinite(y_pred.reshape(len(y_pred), -1)).all(axis=1))):
        raise QinZooError(
            f"{len(broken):,} of {len(y_pred):,} predictions of the {split} split are NaN or infinite, the first in "
            f"row {dataset.used_rows(split)[broken[0]]:,}: the weights or the rows' features hold such values. Nothing "
            "is written; train again, with a smaller learning_rate where the weights are to blame."
        )
    if calibrator is not None:
        y_pred = calibrator(y_pred)
    return y_pred, metrics_of(model, dataset, split, y_pred)


def metrics_of(model, dataset: Dataset, split: str, y_pred: np.ndarray) -> dict[str, float]:
    """The metrics of what :func:`predict_rows` gave of a split; none without labels."""
    if not dataset.has_labels(split):
        return {}
    single: dict[str, dict[str, float]] = {}
    labels = dataset.feature_map.labels
    for label, column in zip(labels, y_pred.reshape(len(y_pred), -1).T, strict=True):
        y_true, group_id = truth_of(dataset, split, label)
        values = model.evaluate_metrics(y_true, column, model.validation_metrics, group_id)
        single[label] = {name: float(value) for name, value in values.items()}
    if y_pred.ndim == 1:
        return single[labels[0]]
    metrics = {f"{label}_{name}": value for label, values in single.items() for name, value in values.items()}
    means = {name: float(np.mean([values[name] for values in single.values()])) for name in single[labels[0]]}
    return metrics | means


def draw_split(dataset: Dataset, split: str, y_pred: np.ndarray, metrics: list[str]) -> dict:
    """Metrics of a split with labels for other users, JSON, of what :func:`predict_rows` gave of it.

    See :func:`qin_zoo.bootstrap.draw_users`.
    """
    labels = dataset.feature_map.labels
    columns = y_pred.reshape(len(y_pred), -1).T
    truth = [truth_of(dataset, split, label) for label in labels]
    draws = [draw_users(y_true, p, metrics, group_id) for (y_true, group_id), p in zip(truth, columns, strict=True)]
    if len(labels) == 1:
        return draws[0].as_dict()
    values = {f"{label}_{name}": v for label, drawn in zip(labels, draws) for name, v in drawn.values.items()}
    values |= {name: np.mean([drawn.values[name] for drawn in draws], axis=0) for name in metrics}
    return replace(draws[0], values=values, truth="-".join(drawn.truth for drawn in draws)).as_dict()


def truth_of(dataset: Dataset, split: str, label: str) -> tuple[np.ndarray, np.ndarray | None]:
    """(N,) labels of a split's used rows, and (N,) whose they are."""
    rows, group_id = dataset.used_rows(split), dataset.group_ids(split)
    return dataset.labels(split, label)[rows], group_id if group_id is None else group_id[rows]
