"""A run's report: what was trained, how well, and where everything lies."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from qin_zoo.experiment.record import (
    append_results_line,
    course_of,
    kept_evaluation,
    monitored,
    read_record,
    same_rows,
    write_record,
)
from qin_zoo.files import replace_text
from qin_zoo.metrics import default_monitor, mode_of
from qin_zoo.training.tracking import shown_params

if TYPE_CHECKING:
    from qin_zoo.experiment.prepare import Prepared

_CELL = re.compile(r"[|<]")  # what would end a cell, or begin a tag

_MISCALIBRATED = 0.05  # an ECE from which a report says how to mend it

_COURSES = {
    "still improving": "**Cut off while still improving**: the last look was the best one. More epochs, or a larger "
    "learning_rate, before this figure is compared with others.",
    "best at the first look": "**Best at the first look**, worse ever since: it overfits at once. A smaller "
    "learning_rate, more regularisation, or eval_steps for looks within the first epoch.",
    "one look": "Looked at once only: whether it would have improved further is not known.",
}


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    header, *rows = [[_CELL.sub(r"\\\g<0>", " ".join(cell.split("\n"))) for cell in row] for row in (header, *rows)]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown_picture(title: str, name: str) -> str:
    """A picture beside a page, in Markdown; names of runs may hold spaces and brackets, which would end the link."""
    return f"![{title.replace('[', '(').replace(']', ')')}]({quote(name)})"


def baselines_of(record: dict) -> list[dict]:
    """Records of the baselines that were fitted to the same rows: beside a run's files, or with its dataset's kin."""
    folder = Path(record["files"]["record"]).parent
    for files in (folder.glob("*.json"), folder.parent.glob("*/*.json")):
        records = (read_record(file) for file in sorted(files))
        found = [r for r in records if r is not None and r.get("baseline") and same_rows(r, record)]
        if found:
            return found
    return []


def verdict(record: dict, baselines: list[dict]) -> str:
    """Whether a run beats baselines, of :func:`baselines_of`, in a sentence."""
    if not baselines:
        return (
            "Not compared with any baseline: there is none of these rows in the folder of the run. "
            f"`qin-zoo baseline {record['files']['record']}` fits them."
        )
    split = "test" if record["test"] else "valid"
    known = [name for name, value in record[split].items() if math.isfinite(value)]  # rows of one class have no AUC
    if not known:
        return f"Not compared with the baselines: no metric is a number on the {split} rows."
    metric = default_monitor(known)
    sign = 1 if mode_of(metric) == "max" else -1
    own = record[split][metric]
    others = {r["expid"]: r[split][metric] for r in baselines if math.isfinite(r[split].get(metric, math.nan))}
    if not others:
        return f"Not compared with the baselines: they have no {split} {metric}."
    ranked = sorted(others, key=lambda name: -sign * others[name])
    ahead = [name for name in ranked if sign * others[name] >= sign * own]
    best = f"{ranked[0]} has {others[ranked[0]]:.4f}"
    if not ahead:
        return f"**Beats all {len(others)} baselines**: {split} {metric} {own:.4f}; the best of them, {best}."
    more = ", ".join(f"{name} {others[name]:.4f}" for name in ahead[1:])
    return (
        f"**Does not beat {'the baselines' if len(ahead) == len(others) else 'every baseline'}**: {split} {metric} "
        f"{own:.4f}; {best}, {abs(others[ranked[0]] - own):.4f} better{f'. Not beaten either: {more}' if more else ''}."
    )


def write_report(path: Path, record: dict) -> None:
    """Writes the Markdown report of a run, compared with the baselines of :func:`baselines_of`."""
    evaluations = record["evaluations"]
    reachable, calibration, files = record["reachable"], record["calibration"], record["files"]
    metrics = list(record["valid"] or record["test"])
    size = f"{record['rows']['train']:,} training rows, {record['parameters']:,} parameters"
    if evaluations:
        kept = kept_evaluation(evaluations)
        metrics = list(kept["metrics"])
        size += (
            f", {len(evaluations)} evaluations in {evaluations[-1]['seconds']:.0f} s; the weights kept are those of "
            f"epoch {kept['epoch']}"
        )
    parts = [f"# {record['expid']}"]
    if record.get("baseline"):
        chosen = ", ".join(f"{key} {value:g}" for key, value in record["chosen"].items())
        size += f", {record['seconds']:.1f} s" + (f"; by the validation rows: {chosen}" if chosen else "")
        parts.append(f"A baseline: {record['baseline']}.")
    else:
        parts.append(verdict(record, baselines_of(record)))
        looks = [value for e in evaluations if (value := monitored(record["params"], e["metrics"])) is not None]
        if course := course_of(looks, record["params"].get("monitor_mode", "max")):
            parts.append(_COURSES[course])
    rows = []
    for split in ("valid", "test"):
        if record[split]:
            ece = [f"{calibration[split]['ece']:.6f}"] if split in calibration else []
            rows.append([split, *(f"{record[split].get(m, math.nan):.6f}" for m in metrics), *ece])
    header = ["split", *metrics, *(["ECE"] if calibration else [])]
    parts += [f"{record['model']} on {record['dataset_id']}: {size}.", "## Result", markdown_table(header, rows)]
    if not record.get("baseline") and "valid" in calibration and calibration["valid"]["ece"] > _MISCALIBRATED:
        parts.append(
            f"**Its probabilities are off by {calibration['valid']['ece']:.2f}** on the mean (ECE of the valid split), "
            f"whatever their order. `qin-zoo calibrate {files['record']}` fits a step against that."
        )
    if reachable and "AUC" in record["valid"]:
        gap = reachable["best_auc"] - record["valid"]["AUC"]
        parts += [
            f"The click probabilities of this sample are known: the best reachable valid AUC is "
            f"{reachable['best_auc']:.4f}, **{gap:.4f}** above this run; a model that does not see the history "
            f"can reach {reachable['blind_auc']:.4f}."
        ]
    if evaluations:
        parts += _training(record, evaluations, kept, metrics)
    parameters = shown_params(record["params"])
    parts += ["## Parameters", "\n".join(f"- {key}: `{value}`" for key, value in parameters.items())]
    parts += ["## Files", "\n".join(f"- {name}: `{file}`" for name, file in files.items() if file)]
    replace_text(path, "\n\n".join(parts) + "\n")


def _training(record: dict, evaluations: list[dict], kept: dict, metrics: list[str]) -> list[str]:
    header = ["epoch", "step", "train loss", *(f"valid {m}" for m in metrics), "learning rate", "seconds", "kept"]
    rows = [
        [
            *(str(e["epoch"]), str(e["step"]), f"{e['train_loss']:.6f}"),
            *(f"{e['metrics'][m]:.6f}" for m in metrics),
            *(f"{e['learning_rate']:.2e}", f"{e['seconds']:.1f}", "★" if e is kept else ""),
        ]
        for e in evaluations
    ]
    picture = markdown_picture("training curves", Path(record["files"]["curves"]).name)
    return ["## Training", picture, markdown_table(header, rows)]


def keep_results(prepared: Prepared, record: dict, folder: Path, argv: list[str]) -> None:
    """Writes record, report, and the line in FuxiCTR's results CSV, ``<config folder>.csv`` in ``folder``."""
    write_record(prepared.files.record, record)
    write_report(prepared.files.report, record)
    append_results_line(folder / f"{prepared.config_dir.name}.csv", argv, record)
