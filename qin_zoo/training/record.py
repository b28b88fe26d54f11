"""What is kept of a run: a JSON record that says how to repeat it, and a line in FuxiCTR's results CSV."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from datetime import datetime
from pathlib import Path

from qin_zoo import __version__
from qin_zoo.errors import QinZooError
from qin_zoo.files import replace_file

SCHEMA_VERSION = 1
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
