"""What is kept of a run: a JSON record that says how to repeat it, and a line in FuxiCTR's results CSV."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import NotRequired, TypedDict

from qin_zoo import __version__
from qin_zoo.errors import ConfigError, QinZooError
from qin_zoo.files import as_json, read_json, replace_text

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SCHEMA_VERSION = 1
# Parameters that do not change what a run computes.
_NOT_IDENTIFYING = {
    "cache_dir", "checkpoint_steps", "gpu", "model_root", "num_workers", "on_nan", "strict", "tracker", "verbose",
}  # fmt: skip


class Look(TypedDict):
    """One evaluation of a training; see :class:`qin_zoo.training.trainer.Evaluation`."""

    epoch: int
    step: int
    train_loss: float
    metrics: dict[str, float | None]
    learning_rate: float
    seconds: float
    best: bool
    gradient_norm: NotRequired[float | None]
    largest_gradient_norm: NotRequired[float | None]


class RunRecord(TypedDict):
    """What ``<expid>.json`` holds; results, studies, tuning, repetitions, exports and reports read it.

    What may be missing came with a later version, or belongs to runs of one kind; further keys are let through.

    Attributes:
        schema_version: :data:`SCHEMA_VERSION`.
        expid: name of the run and its files.
        asked_for: the name that it should have had, where that was taken.
        model, dataset_id, config_dir: what was trained on what, and where that is configured.
        params: all parameters, those of the dataset included.
        rows: of each split.
        valid, test: metric -> value; empty where the rows have no labels. What is NaN, as the AUC of rows of one class,
            is null in the file, and NaN again when it is read.
        reachable: best AUC that is possible, where it is known.
        calibration: split -> :class:`qin_zoo.calibration.Reliability`.
        draws: metrics for other users, :class:`qin_zoo.bootstrap.Draws`.
        parameters: number of trainable parameters.
        processes: that trained together.
        plugins: files of further models.
        scoring: rows scored, and seconds.
        evaluations: of the training.
        rollbacks: when and why it went back to a checkpoint; 0 in baselines of old.
        seconds: of everything.
        environment: versions and machine.
        data: split -> fingerprint of its files.
        sizes: feature -> sizes that the data decided.
        numbering: of items and users, what their numbers stood for.
        sha256: of weights and predictions.
        files: what was written -> path, or None.
        period: of a continued run, how it came about.
        tuning: of a study's run, what was spent on its parameters.
        line: of a study's run, experiment and variation, where its name does not tell them apart.
        trial_of: of a trial, the search.
        baseline, chosen: of a baseline, what it is, and what the validation rows chose.
    """

    schema_version: int
    expid: str
    asked_for: NotRequired[str]
    model: str
    dataset_id: str
    config_dir: NotRequired[str]
    params: dict[str, Any]
    rows: dict[str, int]
    valid: dict[str, float | None]
    test: dict[str, float | None]
    reachable: NotRequired[dict[str, float] | None]
    calibration: NotRequired[dict[str, dict[str, Any]]]
    draws: NotRequired[dict[str, Any]]
    parameters: NotRequired[int]
    processes: NotRequired[int]
    plugins: NotRequired[list[str]]
    scoring: NotRequired[dict[str, float]]
    evaluations: NotRequired[list[Look]]
    rollbacks: NotRequired[list[dict[str, Any]] | int]
    seconds: NotRequired[float]
    environment: dict[str, Any]
    data: dict[str, dict[str, Any]]
    sizes: NotRequired[dict[str, dict[str, Any]]]
    numbering: NotRequired[dict[str, Any]]
    sha256: NotRequired[dict[str, str]]
    files: NotRequired[dict[str, str | None]]
    period: NotRequired[dict[str, Any]]
    tuning: NotRequired[dict[str, Any]]
    line: NotRequired[list[str]]
    trial_of: NotRequired[str]
    baseline: NotRequired[str]
    chosen: NotRequired[dict[str, float]]


_PACKAGES = ("torch", "fuxictr", "numpy", "polars", "scikit-learn")


def environment() -> dict:
    """Versions and machine of this process."""
    import torch

    return {
        "qin_zoo": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def write_record(path: Path, record: RunRecord) -> None:
    """Writes a run's record; values JSON does not know (paths, tuples) become their text, a metric that is NaN null."""
    replace_text(path, json.dumps(as_json(record) | {"params": record["params"]}, indent=2, default=str) + "\n")


@cache
def _form() -> TypeAdapter:
    from pydantic import ConfigDict, TypeAdapter, with_config

    return TypeAdapter(with_config(ConfigDict(extra="allow", strict=True))(RunRecord))


def read_record(path: Path) -> RunRecord | None:
    """A run's record; None where there is none, or one that was written by another version or is no record."""
    try:
        record = read_json(path)
        if not isinstance(record, dict) or record.get("schema_version") != SCHEMA_VERSION:
            return None
        record = _form().validate_python(record)
    except (OSError, ValueError):  # pydantic's errors are ValueErrors
        return None
    for metrics in (record["valid"], record["test"], *(look["metrics"] for look in record.get("evaluations", []))):
        metrics.update({name: math.nan for name, value in metrics.items() if value is None})
    return record


def require_record(path: Path) -> RunRecord:
    """A run's record; ConfigError where :func:`read_record` gives none."""
    record = read_record(path)
    if record is None and not path.exists():
        raise ConfigError(f"{path}: no such file. Runs write theirs at the end; one cut short goes on with --resume.")
    if record is None:
        raise ConfigError(f"{path} is no record of a run (the <expid>.json that `qin-zoo run` writes).")
    return record


def identity(params: dict, data: dict) -> dict[str, dict]:
    """What makes two runs the same: parameters, but for those that change no result, and data; JSON values."""
    chosen = {key: value for key, value in params.items() if key not in _NOT_IDENTIFYING}
    return json.loads(json.dumps({"parameters": chosen, "data": data}, default=str))


def same_rows(one: Mapping, other: Mapping) -> bool:
    """Whether metrics of two records are of the same rows: of one user with one label each, whatever the files hold
    besides."""
    files = [{split: about.get("blake2b") for split, about in record["data"].items()} for record in (one, other)]
    truth = [(record.get("draws") or {}).get("truth") for record in (one, other)]
    return files[0] == files[1] or bool(truth[0] and truth[0] == truth[1])


def content_of(data: dict) -> str:
    """Hash of what the files of a record's ``data`` held, wherever they lay."""
    content = json.dumps({split: _without_places(fingerprint) for split, fingerprint in data.items()}, sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def _without_places(fingerprint: object) -> object:
    if not isinstance(fingerprint, dict):
        return fingerprint
    return {key: _without_places(value) for key, value in fingerprint.items() if key not in ("file", "path")}


def kept_evaluation(evaluations: list[dict]) -> dict:
    """Of a record's evaluations the one whose weights are kept; the last where none of them was the best so far."""
    return next((e for e in reversed(evaluations) if e["best"]), evaluations[-1])


def monitored(params: Mapping, metrics: Mapping[str, float]) -> float | None:
    """What decides which weights are the best: a metric, or a weighted sum of some; None where one is missing."""
    monitor = params.get("monitor", "AUC")
    weights = {monitor: 1.0} if isinstance(monitor, str) else monitor
    return sum(weight * metrics[name] for name, weight in weights.items()) if weights.keys() <= metrics.keys() else None


def course_of(curve: Sequence[float], mode: str = "max") -> str:
    """What is suspicious about where a training was best; empty where nothing is.

    Args:
        curve: the monitored value of each look at the validation rows.
        mode: ``max`` where more is better, else ``min``.

    Returns:
        ``still improving``: best at the last of several looks, so it was cut off and its value says nothing of where it
        would have ended. ``best at the first look``: it got worse from there on, and its best may lie before.
        ``one look``: nothing is known of its course.
    """
    if len(curve) < 2:
        return "one look" if curve else ""
    best = (max if mode == "max" else min)(curve)
    place = curve.index(best) if best in curve else None
    return {0: "best at the first look", len(curve) - 1: "still improving"}.get(place, "")


def append_results_line(csv: Path, argv: list[str], record: RunRecord) -> None:
    """Appends one line in the form of FuxiCTR's ``run_expid.py``; QinZooError, with the line, where that fails."""

    def text(metrics: dict) -> str:
        return " - ".join(f"{k}: {v:.6f}" for k, v in metrics.items())

    line = (
        f" {datetime.now():%Y%m%d-%H%M%S},[command] {' '.join(argv)},[exp_id] {record['expid']},[dataset_id] "
        f"{record['dataset_id']},[train] N.A.,[val] {text(record['valid'])},[test] {text(record['test'])}\n"
    )
    try:
        with open(csv, "a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        raise QinZooError(
            f"Could not append the result to {csv}: {error.strerror}. Everything else of the run is saved; the "
            f"line was:\n{line.strip()}"
        ) from error
