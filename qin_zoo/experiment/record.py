"""What is kept of a run: a JSON record that says how to repeat it, and a line in FuxiCTR's results CSV."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from qin_zoo import __version__
from qin_zoo.errors import QinZooError
from qin_zoo.files import read_json, replace_file

SCHEMA_VERSION = 1
# Parameters that do not change what a run computes.
_NOT_IDENTIFYING = {
    "cache_dir",
    "checkpoint_steps",
    "gpu",
    "model_root",
    "num_workers",
    "on_nan",
    "strict",
    "tracker",
    "verbose",
}
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


def write_record(path: Path, record: dict) -> None:
    """Writes a run's record; values JSON does not know (paths, tuples) become their text."""
    with replace_file(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")


def read_record(path: Path) -> dict | None:
    """A run's record; None where there is none, or one that was written by another version or is no record."""
    try:
        record = read_json(path)
    except (OSError, ValueError):
        return None
    known = isinstance(record, dict) and record.get("schema_version") == SCHEMA_VERSION
    return record if known else None


def identity(params: dict, data: dict) -> dict[str, dict]:
    """What makes two runs the same: parameters, but for those that change no result, and data; JSON values."""
    chosen = {key: value for key, value in params.items() if key not in _NOT_IDENTIFYING}
    return json.loads(json.dumps({"parameters": chosen, "data": data}, default=str))


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


def append_results_line(csv: Path, argv: list[str], expid: str, dataset_id: str, valid: dict, test: dict) -> None:
    """Appends one line in the form of FuxiCTR's ``run_expid.py``."""

    def text(metrics: dict) -> str:
        return " - ".join(f"{k}: {v:.6f}" for k, v in metrics.items())

    line = (
        f" {datetime.now():%Y%m%d-%H%M%S},[command] {' '.join(argv)},[exp_id] {expid},[dataset_id] {dataset_id},"
        f"[train] N.A.,[val] {text(valid)},[test] {text(test)}\n"
    )
    try:
        with open(csv, "a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        raise QinZooError(
            f"Could not append the result to {csv}: {error.strerror}. Everything else of the run is saved; the "
            f"line was:\n{line.strip()}"
        ) from error
