"""What a split's metrics would have been for other users: users are drawn again with all their rows (Efron 1979).

Rows of one user are alike, so drawing rows would promise too much (Field and Welsh, JRSS B 2007). Every call draws
the same users for the same rows in the same order, so what two models score in a draw may be subtracted: a paired
bootstrap.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qin_zoo.errors import QinZooError
from qin_zoo.metrics import is_root, values_of_groups

DRAWS = 1000
_SEED = 20250402
_AT_ONCE = 4_000_000  # numbers of a block, which bounds the memory


@dataclass(frozen=True)
class Draws:
    """Metrics of a split for users drawn again and again.

    Attributes:
        groups: number of users.
        drawn: hash of who was drawn; what two models with the same score may be subtracted draw by draw.
        values: metric -> (draws,) float32; NaN where a draw has no such metric.
        truth: hash of whose the rows are and of their labels, row by row: the same rows have the same, whatever else
            their files hold. Empty in draws of old.
    """

    groups: int
    drawn: str
    values: dict[str, np.ndarray]
    truth: str = ""

    def as_dict(self) -> dict:
        """JSON values: of each metric the base64 text of its little-endian float32 numbers."""
        texts = {name: base64.b64encode(v.astype("<f4").tobytes()).decode() for name, v in self.values.items()}
        return {"groups": self.groups, "drawn": self.drawn, "truth": self.truth, "values": texts}

    @classmethod
    def from_dict(cls, data: Mapping) -> Draws:
        """The inverse of :meth:`as_dict`.

        Raises:
            QinZooError: it is none.
        """
        try:
            texts = {str(name): base64.b64decode(text, validate=True) for name, text in data["values"].items()}
            values = {name: np.frombuffer(text, "<f4") for name, text in texts.items()}
            return cls(int(data["groups"]), str(data["drawn"]), values, str(data.get("truth", "")))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise QinZooError(f"expected metrics of drawn users, found {data!r:.80} ({error})") from None


def draw_users(
    y_true: np.ndarray,
    y_pred: np.ndarray,
    metrics: Sequence[str],
    group_id: np.ndarray | None = None,
    draws: int = DRAWS,
) -> Draws:
    """Metrics of as many users as there are, drawn with replacement, ``draws`` times.

    A user who is drawn twice counts as two. One sort, then passes over blocks of draws: 100,000 rows and 1,000 draws
    take a second or two.

    Args:
        y_true: (N,) labels.
        y_pred: (N,) predictions.
        metrics: names, see :func:`qin_zoo.metrics.known_metrics`.
        group_id: (N,) whose row it is. Default: each row is drawn by itself.
        draws: how many.

    Raises:
        QinZooError: whatever :func:`qin_zoo.metrics.evaluate_metrics` refuses.
    """
    return draw_users_of_parts([(y_true, y_pred, group_id)], metrics, draws)


def draw_users_of_parts(
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray | None]], metrics: Sequence[str], draws: int = DRAWS
) -> Draws:
    """The same of several sets of rows, periods say, which are scored each by itself: means of their metrics.

    A user who has rows in several of them is drawn with all of these.

    Args:
        parts: ``y_true``, ``y_pred`` and ``group_id`` of each, (n,) as :func:`draw_users` takes them.
        metrics, draws: see there.
    """
    sizes = [len(y_true) for y_true, *_ in parts]
    alone = any(group_id is None for *_, group_id in parts)
    names = np.arange(sum(sizes)) if alone else np.concatenate([np.asarray(g) for *_, g in parts])
    group, groups = numbered(names)
    scores = [
        _Scores(y_true, y_pred, metrics, own)
        for (y_true, y_pred, _), own in zip(parts, np.split(group, np.cumsum(sizes)[:-1]))
    ]
    found: dict[str, list[np.ndarray]] = {m: [] for m in metrics}
    drawn, truth = "", _hash(group, *(np.asarray(y_true, np.float64) for y_true, *_ in parts))
    for times in _times(groups, draws, max(sizes)):
        if not drawn:
            drawn = _hash(group, times[0].astype(np.int64))
        values = [of_part(times) for of_part in scores]
        for metric in metrics:
            found[metric].append(np.mean([v[metric] for v in values], axis=0))
    return Draws(groups, drawn, {m: np.concatenate(v).astype(np.float32) for m, v in found.items()}, truth)


def _hash(*parts: np.ndarray) -> str:
    little = (a.astype(a.dtype.newbyteorder("<")).tobytes() for a in parts)
    return hashlib.blake2b(b"".join(little), digest_size=8).hexdigest()


class _Scores:
    """Metrics of rows whose groups, (N,) numbers, are drawn so and so often."""

    def __init__(self, y_true: np.ndarray, y_pred: np.ndarray, metrics: Sequence[str], group: np.ndarray) -> None:
        self._here, own = np.unique(group, return_inverse=True)
        self._auc = _WeightedAUC(y_true, y_pred, own) if "AUC" in metrics else None
        self._means = {m: values_of_groups(y_true, y_pred, m, own) for m in metrics if m != "AUC"}

    def __call__(self, times: np.ndarray) -> dict[str, np.ndarray]:
        """Metric -> (K,), of (K, groups) weights."""
        times = times[:, self._here]
        with np.errstate(invalid="ignore", divide="ignore"):  # a draw without clicks has no AUC
            found = {} if self._auc is None else {"AUC": self._auc(times)}
            for metric, (values, weights) in self._means.items():
                mean = times @ (values * weights) / (times @ weights)
                found[metric] = np.sqrt(mean) if is_root(metric) else mean
        return found


def numbered(group_id: np.ndarray) -> tuple[np.ndarray, int]:
    """(N,) numbers of the groups in the order in which they come, whatever they are called; and how many there are."""
    _, first, place = np.unique(group_id, return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    return number[place.reshape(-1)], len(first)


def _times(groups: int, draws: int, rows: int) -> Iterator[np.ndarray]:
    """How often each group is drawn, (K, groups) float64, in blocks of draws."""
    rng = np.random.Generator(np.random.PCG64(_SEED))
    block = max(1, _AT_ONCE // max(rows, 1))
    for begin in range(0, draws, block):
        some = range(min(block, draws - begin))
        yield np.stack([np.bincount(rng.integers(0, groups, groups), minlength=groups) for _ in some]).astype(float)


class _WeightedAUC:
    """Exact AUC of weighted rows, ties counting one half, for many weightings of the groups at once."""

    def __init__(self, y_true: np.ndarray, y_pred: np.ndarray, group: np.ndarray):
        y_pred, clicked = np.asarray(y_pred, np.float64), np.asarray(y_true) == 1
        order = np.argsort(y_pred, kind="stable")
        clicks, others = order[clicked[order]], order[~clicked[order]]
        self._clicks, self._others = group[clicks], group[others]
        # of each click, how many of the others score less, and how many not more
        self._less, self._most = (np.searchsorted(y_pred[others], y_pred[clicks], side=s) for s in ("left", "right"))

    def __call__(self, times: np.ndarray) -> np.ndarray:
        """(K,) AUCs, of (K, groups) weights."""
        below = np.zeros((len(times), len(self._others) + 1))  # (K, others + 1) weight of the first 0, 1, …
        np.cumsum(np.take(times, self._others, axis=1), axis=1, out=below[:, 1:])
        clicks = np.take(times, self._clicks, axis=1)  # (K, clicks)
        won = np.take(below, self._less, axis=1) + np.take(below, self._most, axis=1)
        return np.einsum("kc,kc->k", clicks, won) / 2 / (clicks.sum(axis=1) * below[:, -1])
