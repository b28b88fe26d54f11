"""A day later: a finished run trained further on the newest rows, and held against what it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qin_zoo.bootstrap import Draws
from qin_zoo.errors import DataError
from qin_zoo.experiment.continued import prepare_continuation
from qin_zoo.experiment.files import RunFiles
from qin_zoo.experiment.predict import draw_split, predict_rows
from qin_zoo.experiment.prepare import build_model
from qin_zoo.experiment.report import markdown_table
from qin_zoo.experiment.run import run_experiment
from qin_zoo.files import replace_text
from qin_zoo.metrics import default_monitor, mode_of
from qin_zoo.models.weights import warm_start
from qin_zoo.results.statistics import Estimate, estimate


@dataclass(frozen=True)
class Update:
    """What became of a model with a day's rows.

    Attributes:
        record: of the new run.
        files: where it lies.
        split: whose rows both models were scored on: ``test``, or ``valid`` where its labels are not known.
        before: metrics of the model as it was, new items having embeddings that nothing was learnt for.
        after: those of the new one.
        differences: metric -> after less before, with the errors that the users of the split leave.
        metric: the one that decides.
        passed: whether the new model is not worse than the old one by more than what is allowed.
        report: a page that says so.
    """

    record: dict
    files: RunFiles
    split: str
    before: dict[str, float]
    after: dict[str, float]
    differences: dict[str, Estimate]
    metric: str
    passed: bool
    report: Path


def update_run(
    record: Path,
    data: Path,
    *,
    allowed: float | None = None,
    results_folder: Path = Path("."),
    argv: Iterable[str] = (),
    name: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    gpu: int = -1,
    overrides: Mapping[str, object] | None = None,
    plugins: Iterable[Path] | None = None,
    echo: Callable[[str], None] = print,
) -> Update:
    """Trains a run further on new rows, and compares it with what it was, on the newest of them.

    Args:
        record: of the finished run.
        data: folder of the new rows, its numbers those of the run's data (``data import --extend``).
        allowed: by how much the deciding metric may get worse. Default: half of its 95 % interval over users, which
            chance may make of rows that are few.
        results_folder, argv, resume, overwrite: see :func:`~qin_zoo.experiment.run.run_experiment`.
        name, gpu, overrides, plugins: see :func:`~qin_zoo.experiment.continued.prepare_continuation`.

    Raises:
        DataError: no split but the training rows has labels, or no metric is a number on it.
        QinZooError: whatever continuing the run refuses.
    """
    prepared = prepare_continuation(record, data, name=name, gpu=gpu, overrides=overrides, plugins=plugins)
    dataset = prepared.open_dataset()
    split = next((s for s in ("test", "valid") if dataset.has(s) and dataset.has_labels(s)), None)
    if split is None:
        raise DataError(f"{data}: expected labels in the test or valid rows, to tell whether the model got worse.")
    model = build_model(prepared, dataset)  # the run before, its tables grown but nothing learnt
    warm_start(model, str(Path(prepared.params["continues"]).with_suffix(".model")))
    y_pred, before = predict_rows(model.eval(), dataset, split)
    metric = _deciding(before, split, echo)
    drawn_before = Draws.from_dict(draw_split(dataset, split, y_pred, prepared.params["metrics"]))
    del model
    new = run_experiment(prepared, results_folder, argv=argv, echo=echo, resume=resume, overwrite=overwrite)
    files = RunFiles(Path(new["files"]["record"]).parent, new["expid"])
    differences = _differences(new[split], before, Draws.from_dict(new["draws"]), drawn_before)
    worse = differences[metric].mean * (-1 if mode_of(metric) == "max" else 1)
    if allowed is None:
        half = differences[metric].half
        allowed = 0.0 if math.isnan(half) else half
    passed = worse <= allowed  # NaN does not pass
    report = files.record.with_suffix(".update.md")
    update = Update(new, files, split, before, new[split], differences, metric, passed, report)
    rows = [
        [name, f"{before[name]:.6f}", f"{new[split][name]:.6f}", _signed(change)]
        for name, change in differences.items()
    ]
    verdict = f"{metric}: {'not worse' if passed else 'WORSE'} than before"
    replace_text(report, _page(update, Path(record), allowed, verdict, rows))
    for name, old, now, change in rows:
        echo(f"{split} {name}: {old} before, {now} after, {change}")
    echo(f"{verdict}; {report}")
    return update


def _deciding(before: Mapping[str, float], split: str, echo: Callable[[str], None]) -> str:
    """The metric that decides: AUC, or the first that is a number on these rows, which may be of one class."""
    found = [name for name, value in before.items() if math.isfinite(value)]
    if not found:
        raise DataError(
            f"{', '.join(before)}: no number on the {split} rows of the new data, so nothing tells whether the model "
            "got worse. Add logloss, --set 'metrics=[AUC, logloss]', or give rows with and without a click."
        )
    metric = default_monitor(found)
    if metric != (usual := default_monitor(list(before))):
        echo(f"{usual} is no number on the {split} rows of the new data: {metric} decides.")
    return metric


def _differences(
    after: Mapping[str, float], before: Mapping[str, float], drawn_after: Draws, drawn_before: Draws
) -> dict[str, Estimate]:
    paired = drawn_after.values.keys() & drawn_before.values if drawn_after.drawn == drawn_before.drawn else ()
    found = {}
    for name in (name for name in after if name in before):
        draws = drawn_after.values[name].astype(float) - drawn_before.values[name] if name in paired else None
        found[name] = estimate([after[name] - before[name]], draws, drawn_after.groups)
    return found


def _signed(difference: Estimate) -> str:
    half = "" if math.isnan(difference.half) else f" ± {difference.half:.4f}"
    return f"{difference.mean:+.4f}{half}"


def _page(update: Update, record: Path, allowed: float, verdict: str, rows: list[list[str]]) -> str:
    period = update.record["period"]
    about = (
        f"{update.record['expid']} continues {record.name}: {period['rows']:,} new rows and {period['replayed']:,} "
        f"earlier ones, {update.record['seconds']:.0f} s. Both are scored on the {update.split} rows of the new data "
        f"({update.record['rows'][update.split]:,}); before, items that were new had nothing learnt."
    )
    rule = f"May get worse by {allowed:.4g} in {update.metric}. "
    interval = "±: half of the 95 % interval over users, drawn again for both alike."
    parts = [f"# {verdict}", about, markdown_table(["metric", "before", "after", "difference"], rows)]
    return "\n\n".join([*parts, rule + interval]) + "\n"
