"""Whether predicted probabilities are the shares of clicks they claim to be."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Rows sorted by their prediction and cut into bins of equally many.

    Attributes:
        ece: expected calibration error: the bins' distances between mean prediction and share of clicks, weighted by
            their rows (Naeini et al. 2015; with bins of equal mass, Nixon et al. 2019).
        rows, predicted, clicked: of each bin its rows, mean prediction and share of clicks.
    """

    ece: float
    rows: list[int]
    predicted: list[float]
    clicked: list[float]

    def as_dict(self) -> dict:
        return asdict(self)


def reliability(y_true: np.ndarray, y_pred: np.ndarray, bins: int = BINS) -> Reliability:
    """The reliability curve and the expected calibration error of predictions.

    Args:
        y_true: (N,) labels, 0 or 1; N of at least 1.
        y_pred: (N,) probabilities.
        bins: number of bins; fewer where there are fewer rows.
    """
    order = np.argsort(y_pred, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    rows = [len(part) for part in parts]
    predicted = [float(y_pred[part].mean()) for part in parts]
    clicked = [float(y_true[part].mean()) for part in parts]
    gaps = np.abs(np.subtract(predicted, clicked))
    return Reliability(float(np.average(gaps, weights=rows)), rows, predicted, clicked)
