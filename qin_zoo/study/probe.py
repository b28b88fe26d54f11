"""What a trained model scores when its data is made harder, and on parts of it."""

from __future__ import annotations

import math

from qin_zoo.experiment.ownership import verify_weights
from qin_zoo.experiment.predict import predict_rows
from qin_zoo.experiment.prepare import Prepared, build_model
from qin_zoo.metrics import evaluate_metrics, needs_groups
from qin_zoo.results.probes import read_probe, write_probe
from qin_zoo.study.slices import slice_rows


def probe(prepared: Prepared, record: dict, tests: dict[str, dict], slices: list[str]) -> dict:
    """Scores a finished run's model on varied data and on slices; kept beside the run and not computed twice.

    Args:
        tests: name -> keys of :class:`~qin_zoo.data.variations.Variation` that replace the run's own.
        slices: see :mod:`qin_zoo.study.slices`.

    Returns:
        ``{"tests": name -> metrics, "slices": kind -> part -> metrics with rows and clicks}``, of the test split,
        or of the validation split where the test rows have no labels.

    Raises:
        CheckpointError: the weights are not the run's any more.
    """
    found = stored_probe(prepared, record, tests, slices)
    if found is not None:
        return found
    split = "test" if record["test"] else "valid"
    dataset = prepared.open_dataset()
    model = build_model(prepared, dataset)
    model.load_weights(str(prepared.files.checkpoint))
    verify_weights(prepared.files.checkpoint, record)  # another study may have put its own there since
    found = {"tests": {}, "slices": {}}
    for name, changes in tests.items():
        found["tests"][name] = predict_rows(model, prepared.varied(changes).open_dataset(), split)[1]
    if slices:
        y_pred, _ = predict_rows(model, dataset, split)
        found["slices"] = {kind: _by_slice(model, dataset, split, kind, y_pred) for kind in slices}
    write_probe(prepared.files.record, record, {"tests": tests, "slices": slices}, found)
    return found


def stored_probe(prepared: Prepared, record: dict, tests: dict[str, dict], slices: list[str]) -> dict | None:
    """What :func:`probe` found before; None where it has not been asked for this."""
    if not tests and not slices:
        return {"tests": {}, "slices": {}}
    return read_probe(prepared.files.record, record, {"tests": tests, "slices": slices})


def _by_slice(model, dataset, split: str, kind: str, y_pred) -> dict[str, dict]:
    y_true, groups = dataset.labels(split), dataset.group_ids(split)
    metrics = [m for m in model.validation_metrics if groups is not None or not needs_groups(m)]
    found = {}
    for part, rows in slice_rows(dataset, split, kind).items():
        values = evaluate_metrics(y_true[rows], y_pred[rows], metrics, groups if groups is None else groups[rows])
        defined = {m: float(v) for m, v in values.items() if math.isfinite(v)}  # clicks only, or none: nothing to rank
        found[part] = {"rows": len(rows), "clicks": int(y_true[rows].sum()), **defined}
    return found
