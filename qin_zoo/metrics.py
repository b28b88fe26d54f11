"""FuxiCTR's metrics, the grouped ones for all groups at once.

===============  =====================================================================
``AUC``          area under the ROC curve (scikit-learn's)
``logloss``      binary cross-entropy (equal to scikit-learn's), also as ``binary_crossentropy``
``brier``        mean squared difference of click and probability (scikit-learn's); FuxiCTR has none
``gAUC``         AUC within each group, averaged with the groups' sizes as weights
``avgAUC``       AUC within each group, averaged with equal weights
``MRR``          mean over groups of the mean reciprocal rank of a group's clicks
``NDCG(k=n)``    mean over groups of NDCG among the first n; ``NDCG`` is ``NDCG(k=1)``
``MSE``          mean squared error, of labels of any size; FuxiCTR has none of these three
``RMSE``         its square root
``MAE``          mean absolute error
===============  =====================================================================

Groups with clicks only, or without any, have no AUC: ``gAUC`` and ``avgAUC`` leave them out. A group without
clicks counts as 0 in ``MRR`` and ``NDCG``, as in FuxiCTR.

Equal scores never depend on the order of the rows, nor on the machine's sort: a tie counts one half in an
AUC, and each row of a tie gets the mean reciprocal rank (or discount) of the places the tie takes, which is
the expectation over all orders. Without ties the values are FuxiCTR's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from qin_zoo.errors import ConfigError, DataError, QinZooError, suggest

Mode = Literal["max", "min"]


@dataclass(frozen=True)
class _Metric:
    """What is known of a metric: a row here is all that one needs which is a mean over rows.

    Attributes:
        mode: ``max`` where more of it is better, ``min`` where less is; FuxiCTR's ``monitor_mode``.
        loss: of a metric that is a mean over rows: (N,) labels and (N,) predictions, float64, to (N,) values.
        root: whether it is the square root of that mean.
        grouped: whether it is computed within groups (:class:`_Groups`).
        clicks: whether it takes labels 0 and 1 only.
    """

    mode: Mode = "max"
    loss: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    root: bool = False
    grouped: bool = False
    clicks: bool = True


def _cross_entropy(y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
    y_pred = _probabilities(y_pred, "logloss")
    edge = np.finfo(y_pred.dtype).eps  # as scikit-learn's
    return -np.log(np.clip(np.where(y_true == 1, y_pred, 1 - y_pred), edge, 1 - edge))


def _square(y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
    return (y_true - y_pred) ** 2


def _probabilities(y_pred: np.ndarray, metric: str) -> np.ndarray:
    low, high = y_pred.min(), y_pred.max()
    if low < 0 or high > 1:
        raise DataError(
            f"{metric} needs probabilities, but predictions lie between {low:.6g} and {high:.6g}. Use task: "
            f"binary_classification, or leave {metric} out of metrics."
        )
    return y_pred


_METRICS = {
    "AUC": _Metric(),
    "logloss": _Metric("min", _cross_entropy),
    "binary_crossentropy": _Metric("min", _cross_entropy),
    "brier": _Metric("min", lambda y_true, y_pred: _square(y_true, _probabilities(y_pred, "brier"))),
    "gAUC": _Metric(grouped=True),
    "avgAUC": _Metric(grouped=True),
    "MRR": _Metric(grouped=True),
    "NDCG": _Metric(grouped=True),
    "MSE": _Metric("min", _square, clicks=False),
    "RMSE": _Metric("min", _square, root=True, clicks=False),
    "MAE": _Metric("min", lambda y_true, y_pred: np.abs(y_true - y_pred), clicks=False),
}
ERROR_METRICS = tuple(name for name, metric in _METRICS.items() if not metric.clicks)
_NDCG = re.compile(r"NDCG(?:\(\s*(?:k\s*=\s*)?(\d{1,9})?\s*\))?")
_OF_LABEL = re.compile(rf".+_((?:{'|'.join(_METRICS)})|{_NDCG.pattern})")


def known_metrics() -> list[str]:
    """Names of the metrics; ``NDCG`` also takes its cutoff: ``NDCG(k=5)``."""
    return [*_METRICS, "NDCG(k=n)"]


def is_root(metric: str) -> bool:
    """Whether a metric is the square root of the mean that :func:`values_of_groups` takes apart."""
    return _about(metric).root


def needs_groups(metric: str) -> bool:
    """Whether a metric is computed within groups, and so needs ``group_id``."""
    return _about(metric).grouped


def mode_of(metric: str) -> Mode:
    """Which of two values of a metric is the better one: ``max`` for the larger, ``min`` for the smaller."""
    return _about(metric).mode


def default_monitor(metrics: Sequence[str]) -> str:
    """The metric that decides which weights are the best where nobody says: AUC where it is there, else the first."""
    return "AUC" if "AUC" in metrics else metrics[0]


def mode_of_monitor(monitor: str | Mapping[str, float]) -> Mode | None:
    """The ``monitor_mode`` of a metric, or of a weighted sum; None where its terms pull in opposite directions."""
    weights = {monitor: 1.0} if isinstance(monitor, str) else monitor
    better = {(mode_of(metric) == "max") == (weight > 0) for metric, weight in weights.items() if weight}
    return None if len(better) != 1 else "max" if better.pop() else "min"


def check_metrics(metrics: Iterable[str]) -> None:
    """Checks names before anything is trained or computed.

    Raises:
        ConfigError: a name is unknown, or the cutoff of an ``NDCG`` is not a number of at least 1.
    """
    if isinstance(metrics, str):
        raise ConfigError(f"metrics must be a list of names, got the text '{metrics}'. Write [{metrics}].")
    for metric in metrics:
        if isinstance(metric, str) and (metric in _METRICS or _cutoff(metric)):
            continue
        hint = suggest(metric, known_metrics()) if isinstance(metric, str) else ""
        raise ConfigError(f"Unknown metric {metric!r}.{hint} Known metrics: {', '.join(known_metrics())}.")


def evaluate_metrics(
    y_true: Sequence[float], y_pred: Sequence[float], metrics: list[str], group_id: Sequence[int] | None = None
) -> dict[str, float]:
    """Metrics of a split's predictions.

    A split with one class only (a tiny validation split, say) has no AUC: ``AUC``, ``gAUC`` and ``avgAUC`` are
    then NaN, without an error or a warning, and ``logloss`` is computed all the same. Likewise ``gAUC`` and
    ``avgAUC`` are NaN where no group has both classes.

    Args:
        y_true: (N,) labels, each 0 or 1; any finite numbers for ``MSE``, ``RMSE`` and ``MAE``.
        y_pred: (N,) predictions; probabilities for ``logloss``, any finite scores for the others.
        metrics: names, see :func:`known_metrics`.
        group_id: (N,) group of every row, integers of any size or strings; needed by ``gAUC``, ``avgAUC``,
            ``MRR`` and ``NDCG`` only. Default: None.

    Returns:
        metric -> value, in the order of ``metrics``.

    Raises:
        ConfigError: a metric is unknown, or needs groups and there is no ``group_id``.
        DataError: no rows, unequal lengths, labels other than 0 and 1, missing group ids, or predictions
            outside [0, 1] for ``logloss``.
        QinZooError: predictions that are NaN or infinite.
    """
    check_metrics(metrics)
    y_true, y_pred = _checked_columns(y_true, y_pred, clicks=not set(metrics) <= set(ERROR_METRICS))
    grouped = [metric for metric in metrics if needs_groups(metric)]
    groups = _Groups(y_true, y_pred, _checked_groups(group_id, len(y_true), grouped[0])) if grouped else None

    def value(metric: str) -> float:
        about = _about(metric)
        if about.grouped:
            return groups.mean(metric)
        if about.loss is None:
            return _auc(y_true, y_pred)
        mean = float(about.loss(y_true, y_pred).mean())
        return mean**0.5 if about.root else mean

    return {metric: value(metric) for metric in metrics}


def values_of_groups(
    y_true: np.ndarray, y_pred: np.ndarray, metric: str, group: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A metric that is a mean over groups, taken apart.

    Args:
        y_true, y_pred: (N,) as :func:`evaluate_metrics` takes them.
        metric: any but ``AUC``, which compares rows of different groups; of ``RMSE`` the square.
        group: (N,) numbers of the groups, 0…G-1, each of which has rows.

    Returns:
        (G,) values and (G,) weights, whose mean is the metric.
    """
    y_true, y_pred = _checked_columns(y_true, y_pred, clicks=metric not in ERROR_METRICS)
    if needs_groups(metric):
        return _Groups(y_true, y_pred, group).values(metric)
    size = np.bincount(group)
    return np.bincount(group, weights=_about(metric).loss(y_true, y_pred)) / size, size.astype(np.float64)


class _Groups:
    """Rows, (N,) each, sorted by group and score, as runs of equal score ("ties") within groups.

    Everything is counted per tie: its first place ``start`` and the place after its last ``stop`` among its
    group's ascending scores, from 0, and its clicks. So N rows need one sort, and the metrics are a few passes.
    """

    def __init__(self, y_true: np.ndarray, y_pred: np.ndarray, group_id: np.ndarray):
        order = np.lexsort((y_pred, group_id))
        group_id, y_pred, y_true = group_id[order], y_pred[order], y_true[order]
        new_group = np.ones(len(order), dtype=bool)
        np.not_equal(group_id[1:], group_id[:-1], out=new_group[1:])
        new_tie = new_group.copy()
        new_tie[1:] |= y_pred[1:] != y_pred[:-1]

        group_start = np.flatnonzero(new_group)
        tie_start = np.flatnonzero(new_tie)
        self.size = np.diff(group_start, append=len(order))  # (G,) rows
        self.clicks = np.add.reduceat(y_true, group_start)  # (G,)
        self.group = np.cumsum(new_group)[tie_start] - 1  # (T,) group of each tie
        self.start = tie_start - group_start[self.group]  # (T,)
        self.stop = self.start + np.diff(tie_start, append=len(order))  # (T,)
        self.tie_clicks = np.add.reduceat(y_true, tie_start)  # (T,)

    def _sum(self, per_tie: np.ndarray) -> np.ndarray:
        """(T,) to sums per group (G,)."""
        return np.bincount(self.group, weights=per_tie, minlength=len(self.size))

    def values(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """(G,) values of the groups and (G,) their weights in the mean; a group without a value weighs 0."""
        if metric in ("gAUC", "avgAUC"):
            return self._aucs(weighted=metric == "gAUC")
        if metric == "MRR":
            reciprocal = 1 / np.arange(1, self.size.max() + 1)
            values = self._gain(reciprocal) / np.maximum(self.clicks, 1)
        else:
            values = self._ndcg(_cutoff(metric))
        return values, np.ones(len(values))

    def mean(self, metric: str) -> float:
        values, weights = self.values(metric)
        some = weights > 0
        return float(np.average(values[some], weights=weights[some])) if some.any() else float("nan")

    def _aucs(self, weighted: bool) -> tuple[np.ndarray, np.ndarray]:
        others = self.size - self.clicks
        both = (self.clicks > 0) & (others > 0)
        # Mann and Whitney: the clicks' ranks, ties at their mean rank, less what the clicks alone would add up to.
        ranks = self._sum((self.start + self.stop + 1) / 2 * self.tie_clicks)
        auc = (ranks - self.clicks * (self.clicks + 1) / 2) / np.where(both, self.clicks * others, 1)
        return np.where(both, auc, 0.0), np.where(both, self.size if weighted else 1.0, 0.0)

    def _gain(self, weight_of_place: np.ndarray) -> np.ndarray:
        """(G,) sums over a group's clicks of the weight of their places; in a tie, of the mean of the tie's places.

        ``weight_of_place``, (largest group,), are those of the first, second, … place by descending score.
        """
        total = np.concatenate([[0.0], np.cumsum(weight_of_place)])
        size = self.size[self.group]
        weight = total[size - self.start] - total[size - self.stop]
        return self._sum(self.tie_clicks * weight / (self.stop - self.start))

    def _ndcg(self, k: int) -> np.ndarray:
        places = np.arange(self.size.max())
        discount = np.where(places < k, 1 / np.log2(places + 2), 0)
        best = np.concatenate([[0.0], np.cumsum(discount)])[self.clicks.astype(np.int64)]  # (G,)
        return self._gain(discount) / np.where(best > 0, best, 1)


def metrics_text(metrics: Mapping[str, float]) -> str:
    """Metrics on a line, and what it means that one is no number."""
    text = "  ".join(f"{name} {value:.6f}" for name, value in metrics.items())
    none = any("AUC" in name and value != value for name, value in metrics.items())
    return text + ("  (nan: the rows, or those of each group, are of one class)" if none else "")


def without_label(name: str) -> str:
    """The metric that a name means: ``AUC`` for ``like_AUC``, as FuxiCTR's models of several labels call theirs."""
    match = _OF_LABEL.fullmatch(name)
    return match.group(1) if match else name


def _about(metric: str) -> _Metric:
    name = without_label(metric).split("(")[0]
    if name not in _METRICS:
        check_metrics([metric])
    return _METRICS[name]


def _cutoff(metric: str) -> int:
    """The k of an ``NDCG``; 0 for anything that is not one."""
    match = _NDCG.fullmatch(metric)
    return int(match.group(1) or 1) if match else 0


def _auc(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """That of a single group; scikit-learn's, to the last digits, without the second that its import takes."""
    return _Groups(y_true, y_pred, np.zeros(len(y_true), dtype=np.int8)).mean("avgAUC")


def _checked_columns(y_true: Sequence[float], y_pred: Sequence[float], clicks: bool) -> tuple[np.ndarray, np.ndarray]:
    try:
        y_true, y_pred = (np.asarray(column, dtype=np.float64).reshape(-1) for column in (y_true, y_pred))
    except (TypeError, ValueError) as error:
        raise DataError(f"Labels and predictions must be columns of numbers: {error}.") from error
    if len(y_true) != len(y_pred):
        raise DataError(f"{len(y_true)} labels but {len(y_pred)} predictions: each row needs one of each.")
    if not len(y_true):
        raise DataError("There are no rows to evaluate: the split is empty.")
    broken = int(np.count_nonzero(~np.isfinite(y_pred)))
    if broken:
        raise QinZooError(
            f"{broken} of {len(y_pred)} predictions are NaN or infinite, so there are no metrics: the model's "
            "weights or the rows' features hold such values. A smaller learning_rate often mends it."
        )
    if not clicks:
        if not np.isfinite(y_true).all():
            raise DataError("Labels must be finite numbers; some are not.")
        return y_true, y_pred
    wrong = y_true[(y_true != 0) & (y_true != 1)]
    if len(wrong):
        raise DataError(
            f"Labels must be 0 or 1; {len(wrong)} of {len(y_true)} are not (the first is {wrong[0]:g}). A split "
            "without labels can be predicted but not evaluated."
        )
    return y_true, y_pred


def _checked_groups(group_id: Sequence[int] | None, rows: int, metric: str) -> np.ndarray:
    if group_id is None:
        raise ConfigError(
            f"Metric {metric} is computed within groups. Set group_id in the configuration to the column that "
            f"says which group (user, session, …) a row is of, or leave {metric} out."
        )
    groups = np.asarray(group_id).reshape(-1)
    if groups.dtype.kind in "US" and isinstance(group_id, (list, tuple)):  # numpy makes the text "nan" of a NaN
        groups = np.asarray(group_id, dtype=object).reshape(-1)
    if len(groups) != rows:
        raise DataError(f"{rows} labels but {len(groups)} group ids: each row needs one.")
    if groups.dtype.kind in "OUS":
        # objects sort slowly or, if they are of several types, not at all; their codes do
        codes = {g: i for i, g in enumerate(dict.fromkeys(groups.tolist()))}
        if any(map(_is_missing, codes)):
            raise DataError("group_id has rows without a group. Give every row one.")
        groups = np.fromiter((codes[g] for g in groups.tolist()), dtype=np.int64, count=rows)
    elif groups.dtype.kind == "f" and np.isnan(groups).any():
        raise DataError(f"group_id is NaN in {int(np.isnan(groups).sum())} rows. Give every row a group.")
    return groups


def _is_missing(group: object) -> bool:
    """Whether it is None, NaN, or pandas' NA, which no comparison tells from itself."""
    try:
        return group is None or bool(group != group)
    except TypeError:
        return True
