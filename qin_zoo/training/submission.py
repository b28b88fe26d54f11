"""Predictions in the form the WWW 2025 MM-CTR challenge takes."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv as pa_csv

from qin_zoo.files import replace_file


def write_submission(
    y_pred: np.ndarray, csv: Path, archive: Path, task: int = 2, rows: np.ndarray | None = None
) -> None:
    """Writes ``csv`` with columns ``ID`` and ``Task<task>``, and ``archive`` with it as ``prediction.csv``.

    Args:
        y_pred: (N,) probabilities, in the order of the test rows.
        csv: where the predictions go.
        archive: where the zip for the challenge goes.
        task: 1 for the multimodal embedding task, 2 for click-through-rate prediction.
        rows: (N,) the ``ID`` of each. Default: 0…n-1, as the challenge takes it.
    """
    table = pa.table({"ID": np.arange(len(y_pred)) if rows is None else rows, f"Task{task}": y_pred})
    with replace_file(csv) as temporary:
        pa_csv.write_csv(table, temporary, pa_csv.WriteOptions(quoting_style="none"))
    with replace_file(archive) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as z:
        z.write(csv, "prediction.csv")
