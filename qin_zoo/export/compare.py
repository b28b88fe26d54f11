"""Whether exported scores are those of the trained model."""

from __future__ import annotations

import numpy as np

from qin_zoo.errors import QinZooError

# Differences that float32 rounding stays below: of logits, as shares of their spread and of their size.
_OF_SPREAD, _OF_SIZE = 1e-4, 1e-5


def compare(trained: np.ndarray, exported: np.ndarray, task: str, model: str) -> tuple[float, bool]:
    """The largest difference of scores, and whether rounding explains all of them.

    Logits are compared, relative to their spread: at a click rate of 1e-5 the probabilities of any two models are near
    each other, those of one and of its opposite too.

    Args:
        trained, exported: (N,) scores of the same candidates, uncalibrated.
        task: ``regression``, where scores are values; else they are probabilities.

    Raises:
        QinZooError: the trained model gives no numbers.
    """
    trained, exported = trained.astype(np.float64), exported.astype(np.float64)
    if not np.isfinite(trained).all():
        raise QinZooError(f"{model} gives scores that are no numbers: NaN or infinity in its weights. Train it again.")
    logits, slope = trained, 1.0
    if task != "regression":
        p = np.clip(trained, np.finfo(np.float32).tiny, 1 - np.finfo(np.float32).epsneg)
        logits, slope = np.log(p) - np.log1p(-p), p * (1 - p)
    size = np.abs(logits).max() if task == "regression" else max(np.abs(logits).max(), 1.0)
    rounding = 2 * np.spacing(np.abs(trained).astype(np.float32))
    gap = np.abs(exported - trained)
    return float(gap.max()), bool((gap <= slope * (_OF_SPREAD * logits.std() + _OF_SIZE * size) + rounding).all())
