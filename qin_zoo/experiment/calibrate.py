"""Fitting a calibration step to a trained experiment: what `qin-zoo calibrate` does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from qin_zoo.calibration import Calibrator, calibration_file, calibrator_to_dict, fit_calibrator, reliability
from qin_zoo.errors import ConfigError, QinZooError
from qin_zoo.experiment.predict import predict_rows
from qin_zoo.experiment.prepare import Prepared, build_model
from qin_zoo.experiment.report import markdown_picture, markdown_table
from qin_zoo.experiment.tasks import is_regression
from qin_zoo.files import file_digest, replace_text
from qin_zoo.metrics import evaluate_metrics

SCHEMA_VERSION = 1
_FOLDS, _SEED = 5, 2025
_METRICS = ("ECE", "AUC", "logloss")


def calibrate_run(
    prepared: Prepared, method: str, checkpoint: Path | None = None, echo: Callable[[str], None] = print
) -> Calibrator | None:
    """Fits a step on the validation split and writes it, with report and picture, beside the weights.

    It is kept if it helps rows that it was not fitted to: in five folds of the validation rows, those of a user in one,
    logloss and ECE must not be worse than those of the scores as they are.

    Args:
        method: ``platt`` or ``isotonic``.
        checkpoint: weights. Default: the experiment's own.

    Returns:
        the step; None where it makes things worse. Nothing is written then, and a step that was there stays.

    Raises:
        QinZooError: the experiment, its data or its weights cannot be used, or nothing can be fitted.
    """
    from qin_zoo.experiment.curves import draw_reliability

    if is_regression(prepared.params):
        raise ConfigError(f"{prepared.expid} has task regression: only click probabilities can be calibrated.")
    checkpoint = Path(checkpoint or prepared.files.checkpoint)
    dataset = prepared.open_dataset()
    dataset.require("valid", labels=True)
    if len(labels := dataset.feature_map.labels) > 1:
        raise ConfigError(f"{prepared.expid} predicts {', '.join(labels)}: only those of one label are calibrated.")
    model = build_model(prepared, dataset)
    model.load_weights(str(checkpoint))
    splits = [split for split in ("valid", "test") if dataset.has(split) and dataset.has_labels(split)]
    labels = {split: dataset.labels(split) for split in splits}
    before = {split: predict_rows(model, dataset, split)[0] for split in splits}
    calibrator = fit_calibrator(method, labels["valid"], before["valid"])
    held_out = _held_out(method, labels["valid"], before["valid"], dataset.group_ids("valid"))
    told = _changes(held_out, ("ECE", "logloss"))
    echo(f"valid, rows that the step was not fitted to ({_FOLDS} folds): {', '.join(told)}")
    if any(held_out["after"][name] > held_out["before"][name] for name in ("ECE", "logloss")):
        echo(f"no step is kept: {method} makes it worse. The scores of {checkpoint.name} are left as they are.")
        return None
    results = {
        split: {"before": _measure(labels[split], raw), "after": _measure(labels[split], calibrator(raw))}
        for split, raw in before.items()
    }
    found = {
        "schema_version": SCHEMA_VERSION,
        "expid": prepared.expid,
        "step": calibrator_to_dict(calibrator),
        "weights_sha256": file_digest(checkpoint),
        "fitted_on": {"split": "valid", "rows": len(labels["valid"])},
        "held_out": held_out,
        "results": results,
    }
    title, picture = f"{prepared.expid}: calibration, {method}", calibration_file(checkpoint, ".png")
    curves = {s: {when: side["reliability"] for when, side in sides.items()} for s, sides in results.items()}
    draw_reliability(curves, picture, title)
    replace_text(calibration_file(checkpoint), json.dumps(found, indent=2) + "\n")
    replace_text(calibration_file(checkpoint, ".md"), _report(title, results, picture.name))
    for split, sides in results.items():
        told = _changes(sides, _METRICS) + (["(fitted to these rows)"] if split == "valid" else [])
        echo(f"{split}: {'  '.join(told)}")
    echo(f"step: {calibration_file(checkpoint)}, from now on used by predict and export; delete it for the raw scores")
    return calibrator


def _changes(sides: dict[str, dict], metrics: Iterable[str]) -> list[str]:
    return [f"{name} {sides['before'][name]:.6f} → {sides['after'][name]:.6f}" for name in metrics]


def _held_out(method: str, y_true: np.ndarray, y_pred: np.ndarray, users: np.ndarray | None) -> dict[str, dict]:
    """ECE and logloss before and after a step that was fitted to the other folds; a user's rows are in one fold."""
    groups = np.arange(len(y_true)) if users is None else np.unique(users, return_inverse=True)[1].reshape(-1)
    fold = np.random.default_rng(_SEED).permutation(groups.max() + 1)[groups] % _FOLDS
    after = y_pred.copy()
    for number in range(_FOLDS):
        inside = fold == number
        try:
            after[inside] = fit_calibrator(method, y_true[~inside], y_pred[~inside])(y_pred[inside])
        except QinZooError as error:
            alone = users is None
            whose = f"{len(y_true):,} rows" + ("" if alone else f" of {groups.max() + 1:,} user(s)")
            mend = "" if alone else ", or --set group_id=null, with metrics that need no groups"
            raise QinZooError(
                f"A step is kept only if it helps rows that it was not fitted to, and of these {whose} it cannot be "
                f"fitted without those of one fold: {error} More valid rows are needed{mend}."
            ) from None
    sides = {"before": y_pred, "after": after}
    return {when: {k: v for k, v in _measure(y_true, p).items() if k != "reliability"} for when, p in sides.items()}


def _measure(y_true: np.ndarray, y_pred: np.ndarray) -> dict:
    curve = reliability(y_true, y_pred)
    metrics = evaluate_metrics(y_true, y_pred, ["AUC", "logloss"])
    return {"ECE": curve.ece, **{k: float(v) for k, v in metrics.items()}, "reliability": curve.as_dict()}


def _report(title: str, results: dict, picture: str) -> str:
    rows = [
        [f"{split}, {when}", *(f"{side[name]:.6f}" for name in _METRICS)]
        for split, sides in results.items()
        for when, side in sides.items()
    ]
    others = "; the test rows are the ones to look at" if "test" in results else ", and no other rows have labels"
    note = (
        "ECE: expected calibration error, in bins of equally many rows, equal scores in one. The step was fitted to "
        f"the valid rows, so what it says of them is optimistic{others}."
    )
    parts = [f"# {title}", markdown_table(["rows", *_METRICS], rows), markdown_picture("reliability", picture), note]
    return "\n\n".join(parts) + "\n"
