"""Predictions in the form the WWW 2025 MM-CTR challenge takes."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence

import numpy as np
import polars as pl
from pyarrow import csv as pa_csv

from qin_zoo.experiment.files import RunFiles
from qin_zoo.files import replace_file


def write_submission(
    y_pred: np.ndarray, files: RunFiles, rows: np.ndarray | None = None, labels: Sequence[str] = ()
) -> None:
    """Writes predictions with columns ``ID`` and ``Task2``, and the challenge's zip with them as ``prediction.csv``.

    Predictions of several labels stand in columns of the labels' names.

    Args:
        y_pred: (N,) predictions in the order of the test rows; (N, L) of several labels.
        rows: (N,) the ``ID`` of each. Default: 0…n-1, as the challenge takes it.
        labels: names of the columns of ``y_pred``, where there are several.
    """
    columns = {"Task2": y_pred} if y_pred.ndim == 1 else dict(zip(labels, y_pred.T, strict=True))
    # Arrow's own way from NumPy imports pandas where there is one: half a second.
    table = pl.DataFrame({"ID": np.arange(len(y_pred)) if rows is None else rows, **columns}).to_arrow()
    with replace_file(files.prediction) as temporary:
        pa_csv.write_csv(table, temporary, pa_csv.WriteOptions(quoting_style="none"))
    with replace_file(files.submission) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as z:
        z.write(files.prediction, "prediction.csv")
