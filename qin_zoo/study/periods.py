"""A study's run over periods: trained on a dataset, then continued from folder to folder."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import polars as pl

from qin_zoo.bootstrap import draw_users_of_parts
from qin_zoo.experiment.continued import prepare_continuation
from qin_zoo.experiment.predict import truth_of
from qin_zoo.experiment.prepare import Prepared
from qin_zoo.experiment.run import finished_record
from qin_zoo.study.plan import StudyRun

Train = Callable[[Prepared], dict | None]


def over_periods(run: StudyRun, prepared: Prepared, options: dict, train: Train = finished_record) -> dict | None:
    """The record of a run over all its periods; None where one of them is not finished.

    Args:
        prepared: the training before, which the variations of an experiment have in common.
        options: of :func:`~qin_zoo.experiment.prepare.prepare`.
        train: gives the record of a training; None for one that there is not. Default: of what is finished.

    Returns:
        that of the last period; its metrics are means over the periods that were continued, each tested on the next
        one, and ``slices`` has those of each.
    """
    record, records, parts = train(prepared), [], []
    for number, folder in enumerate(run.periods, 1):
        if record is None:
            return None
        path = prepared.files.record if number == 1 else Path(record["files"]["record"])
        continued = prepare_continuation(
            path,
            Path(folder),
            name=f"{run.name}.p{number}",
            gpu=prepared.params["gpu"],
            overrides={**run.changes, **(options.get("overrides") or {})},
            plugins=options.get("plugins"),
        )
        record = train(continued)
        records.append(record)
        parts.append(continued)
    if record is None:
        return None
    split = "test" if record["test"] else "valid"
    means = {s: {name: statistics.fmean(r[s][name] for r in records) for name in record[s]} for s in ("valid", "test")}
    slices = {str(n): {"rows": r["rows"][split], **r[split]} for n, r in enumerate(records, 1)}
    seconds = sum(r["evaluations"][-1]["seconds"] if r["evaluations"] else r["seconds"] for r in records)
    of_all = {"expid": run.name, "asked_for": run.name, "seconds": seconds, "draws": _draws(parts, records)}
    of_all["line"] = run.of_line
    of_all["rows"] = {name: sum(r["rows"][name] for r in records) for name in record["rows"]}
    of_all |= {"calibration": {}, "evaluations": [], "slices": {"period": slices}}  # these are not of one
    return {**record, **means, **of_all}


def _draws(continued: list[Prepared], records: list[dict]) -> dict | None:
    """The test metrics for other users, each drawn with the rows of all periods, JSON.

    None where the test rows have no labels or several, or predictions are gone.
    """
    files = [Path(record["files"]["prediction"] or "") for record in records]
    if not all(file.is_file() and record["test"] for file, record in zip(files, records)):
        return None
    parts = []
    for prepared, file in zip(continued, files):
        dataset = prepared.open_dataset()
        if len(labels := dataset.feature_map.labels) > 1:
            return None
        y_true, group_id = truth_of(dataset, "test", labels[0])
        parts.append((y_true, pl.read_csv(file, glob=False).to_series(1).to_numpy(), group_id))
    return draw_users_of_parts(parts, continued[0].params["metrics"]).as_dict()
