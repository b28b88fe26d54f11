"""Whether predicted probabilities are the shares of clicks they claim to be, and a calibrator that makes them so.

Scoring needs numpy only; fitting a calibrator uses scikit-learn. It is kept beside the very weights it was fitted to:
their hash stands in its file, and it is refused beside any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from qin_zoo.errors import CheckpointError, ConfigError, QinZooError, suggest
from qin_zoo.files import file_digest, read_json

BINS = 15
_AGAIN = "Fit it again (qin-zoo calibrate), or delete it."
METHODS = ("platt", "isotonic")
_EDGE = 1e-6  # what a probability is kept away from 0 and 1 by, where its logit is taken: float32 knows no nearer


@dataclass(frozen=True)
class Reliability:
    """Rows sorted by their prediction and cut into bins of equally many, as far as equal predictions let them.

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
        """JSON values, as records hold them."""
        return asdict(self)


def reliability(y_true: np.ndarray, y_pred: np.ndarray, bins: int = BINS) -> Reliability:
    """The reliability curve and the expected calibration error of predictions.

    The bins' edges are quantiles of the predictions, as in scikit-learn's ``calibration_curve``: rows of one
    prediction share a bin, however many they are, so nothing depends on the order of the rows.

    Args:
        y_true: (N,) labels, 0 or 1; N of at least 1.
        y_pred: (N,) probabilities.
        bins: number of bins; fewer where there are fewer different predictions.
    """
    order = np.argsort(y_pred, kind="stable")
    y_true, y_pred = np.asarray(y_true)[order], np.asarray(y_pred, np.float64)[order]
    edges = np.percentile(y_pred, np.linspace(0, 1, bins + 1)[1:-1] * 100)
    begin = np.unique(np.concatenate([[0], np.searchsorted(y_pred, edges, side="right")]))
    begin = begin[begin < len(y_pred)]  # (bins,) first row of each
    rows = np.diff(begin, append=len(y_pred))
    predicted, clicked = (np.add.reduceat(column, begin) / rows for column in (y_pred, y_true))
    ece = float(np.average(np.abs(predicted - clicked), weights=rows))
    return Reliability(ece, rows.tolist(), predicted.tolist(), clicked.tolist())


@dataclass(frozen=True)
class Platt:
    """``σ(slope · logit(p) + intercept)`` (Platt 1999): two numbers, and the order of the rows stays.

    Attributes:
        slope: positive; below 1 where the model boasts.
        intercept: 0 where the model's mean is right.
    """

    slope: float
    intercept: float
    method = "platt"

    def __call__(self, p: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, (N,) float64, of the model's."""
        return 1 / (1 + np.exp(-(self.slope * _logit(p) + self.intercept)))


@dataclass(frozen=True)
class Isotonic:
    """Piecewise linear through the blocks of an isotonic regression (Zadrozny and Elkan, KDD 2002).

    A block stands at its rows' mean prediction, as in centred isotonic regression (Oron and Flournoy 2017): between
    blocks the step rises strictly, without jumps at which a rounded prediction would be another score. Below the first
    block and above the last it is level.

    Attributes:
        predicted: of each block the mean prediction, ascending.
        clicked: of each block the share of clicks, ascending.
    """

    predicted: list[float]
    clicked: list[float]
    method = "isotonic"

    def __call__(self, p: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, (N,) float64, of the model's."""
        return np.interp(np.asarray(p, np.float64), self.predicted, self.clicked)


Calibrator = Platt | Isotonic


def fit_calibrator(method: str, y_true: np.ndarray, y_pred: np.ndarray) -> Calibrator:
    """Fits a calibration step to a split that the model was not trained with.

    Args:
        method: ``platt``, or ``isotonic``, which follows any rising curve but wants a thousand rows or more.
        y_true: (N,) labels, 0 or 1, of both kinds.
        y_pred: (N,) probabilities.

    Raises:
        ConfigError: no such method.
        QinZooError: the labels are all alike, or the predictions fall where clicks rise.
    """
    if method not in METHODS:
        raise ConfigError(f"--method: expected {' or '.join(METHODS)}, found {method!r}.{suggest(method, METHODS)}")
    if len(np.unique(y_true)) < 2:
        raise QinZooError("Calibration needs rows with clicks and rows without; these labels are all alike.")
    calibrator = _fit_platt(y_true, y_pred) if method == "platt" else _fit_isotonic(y_true, y_pred)
    if (calibrator.slope <= 0) if isinstance(calibrator, Platt) else (len(calibrator.predicted) < 2):
        raise QinZooError(
            "Calibration found no rise of clicks with the model's predictions: it ranks these rows no better than "
            "chance. Train it further before calibrating it."
        )
    return calibrator


def _fit_platt(y_true: np.ndarray, y_pred: np.ndarray) -> Platt:
    from sklearn.linear_model import LogisticRegression

    clicks = y_true.sum()  # Platt's targets, not quite 0 and 1: the fit is finite even where the model makes no mistake
    target = np.where(y_true == 1, (clicks + 1) / (clicks + 2), 1 / (len(y_true) - clicks + 2))
    x, kind = np.tile(_logit(y_pred), 2)[:, None], np.repeat([1, 0], len(y_true))
    weight = np.concatenate([target, 1 - target])
    fitted = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8).fit(x, kind, weight)
    return Platt(float(fitted.coef_[0, 0]), float(fitted.intercept_[0]))


def _fit_isotonic(y_true: np.ndarray, y_pred: np.ndarray) -> Isotonic:
    from sklearn.isotonic import isotonic_regression

    x, place, rows = np.unique(y_pred, return_inverse=True, return_counts=True)
    share, least = np.bincount(place, weights=y_true) / rows, 1 / (len(y_true) + 2)  # certainty would cost logloss ∞
    level = isotonic_regression(share, sample_weight=rows.astype(float), y_min=least, y_max=1 - least)
    clicked, block = np.unique(level, return_inverse=True)
    centre = np.bincount(block, weights=x * rows) / np.bincount(block, weights=rows)
    return Isotonic(centre.tolist(), clicked.tolist())


def calibrator_to_dict(calibrator: Calibrator) -> dict:
    """A step as JSON values, for :func:`calibrator_from_dict`."""
    return {"method": calibrator.method, **asdict(calibrator)}


def calibrator_from_dict(values: Mapping) -> Calibrator:
    """The step that :func:`calibrator_to_dict` wrote.

    Raises:
        QinZooError: it is none.
    """
    kinds = {kind.method: kind for kind in (Platt, Isotonic)}
    try:
        numbers = dict(values)
        calibrator = kinds[numbers.pop("method")](**numbers)
        found = calibrator(np.array([0.0, 0.5, 1.0]))
        if np.isfinite(found).all() and (np.diff(found) >= 0).all():
            return calibrator
    except (KeyError, TypeError, ValueError):
        pass
    raise QinZooError(
        f"Expected a calibration step, {' or '.join(METHODS)} with its numbers, found {values!r:.80}. {_AGAIN}"
    )


def _logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(np.asarray(p, np.float64), _EDGE, 1 - _EDGE)
    return np.log(p) - np.log1p(-p)


def calibration_file(checkpoint: Path, suffix: str = ".json") -> Path:
    """Where the step of these weights is kept; ``.md`` and ``.png`` for its report and picture."""
    return Path(checkpoint).with_suffix(f".calibration{suffix}")


def discard_calibrator(checkpoint: Path) -> None:
    """Deletes the step of weights that are about to be replaced, its report and its picture."""
    for suffix in (".json", ".md", ".png"):
        calibration_file(checkpoint, suffix).unlink(missing_ok=True)


def read_calibrator(checkpoint: Path) -> Calibrator | None:
    """The calibration step of these weights; None where there is none.

    Raises:
        CheckpointError: it was fitted to other weights, or the file is damaged.
    """
    file = calibration_file(checkpoint)
    if not file.is_file():
        return None
    try:
        content = read_json(file)
        calibrator, weights = calibrator_from_dict(content["step"]), content["weights_sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, QinZooError):
        raise CheckpointError(f"{file} holds no calibration step. {_AGAIN}") from None
    if weights != file_digest(checkpoint):
        raise CheckpointError(
            f"{file} was fitted to other weights than {checkpoint} (SHA-256 {weights[:12]}…): they were trained anew "
            f"since. {_AGAIN}"
        )
    return calibrator
