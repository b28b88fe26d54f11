"""The numbers a person wants to know of a dataset, and those its plots are drawn from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from qin_zoo.data.check.across import click_rate, duplicates
from qin_zoo.data.check.items import Items
from qin_zoo.data.check.splits import TOP_LEVEL, Split


@dataclass(frozen=True)
class VectorFigures:
    """An embedding column: its length, items and norms (least, median, mean, greatest)."""

    dim: int
    items: int
    norms: tuple[float, float, float, float]


@dataclass
class Statistics:
    """A dataset in numbers.

    Attributes:
        splits: name -> heading -> (figure, how to write it); NaN where there is nothing to count.
        items: items of the item table, padding left out; None without one.
        vectors: embedding column -> figures.
        lengths: split -> (L+1,) rows by history length.
        held: (users,) rows of each user of the training split (or the first there is), the greatest first.
        per_user: (R+1,) users by their rows.
        popularity: (items,) rows of each item, the greatest first.
        by_popularity: (upper bound of rows per item, click rate, rows) of each bucket.
        by_level: (level, click rate, rows).
        norms: embedding column -> norms of the items that have a vector.
    """

    splits: dict[str, dict[str, tuple[float, str]]] = field(default_factory=dict)
    items: int | None = None
    vectors: dict[str, VectorFigures] = field(default_factory=dict)
    lengths: dict[str, np.ndarray] = field(default_factory=dict)
    held: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    per_user: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    popularity: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    by_popularity: list[tuple[int, float, int]] = field(default_factory=list)
    by_level: list[tuple[int, float, int]] = field(default_factory=list)
    norms: dict[str, np.ndarray] = field(default_factory=dict)


def statistics_of(splits: dict[str, Split], items: Items | None) -> Statistics:
    """The statistics of what was read."""
    out = Statistics(items=None if items is None else max(items.rows - 1, 0))
    if items is not None:
        for name, norms in items.norms.items():
            out.norms[name] = real = norms[norms > 0]
            spread = (real.min(), np.median(real), real.mean(), real.max()) if real.size else (np.nan,) * 4
            out.vectors[name] = VectorFigures(items.dims[name], len(norms), tuple(float(x) for x in spread))
    for name, split in splits.items():
        out.splits[name] = _figures(split, None if name == "train" else splits.get("train"))
        out.lengths[name] = np.bincount(np.clip(split.length, 0, 1_000_000))
    if splits:
        _series(next(iter(splits.values())), out)
    return out


def _figures(split: Split, train: Split | None) -> dict[str, tuple[float, str]]:
    length, cold = split.length, (np.nan, np.nan)
    users, place, rows = np.unique(split.user, return_inverse=True, return_counts=True)
    order = np.argsort(-rows, kind="stable")
    top = np.isin(place, order[: -(-len(users) // 100)])  # the hundredth of the users, rounded up, with most rows
    of_clicks = np.empty(0) if split.label is None else top[split.label == 1]
    if train is not None:
        pairs = ((split.item, train.item), (split.user, train.user))
        cold = [np.isin(ids, known, invert=True).mean() for ids, known in pairs]
    return {
        "rows": (split.rows, ",d"),
        "users": (len(users), ",d"),
        "items as target": (len(np.unique(split.item)), ",d"),
        "click rate": (click_rate(split), ".2%"),
        "rows of the top 1% of users": (top.mean(), ".2%"),
        "clicks of the top 1% of users": (of_clicks.mean() if of_clicks.size else np.nan, ".2%"),
        "users with half of the rows": (int(np.searchsorted(np.cumsum(rows[order]), split.rows / 2)) + 1, ",d"),
        "history, least": (length.min(), ",d"),
        "history, quarter": (np.quantile(length, 0.25), ",.0f"),
        "history, median": (np.median(length), ",.0f"),
        "history, three quarters": (np.quantile(length, 0.75), ",.0f"),
        "history, mean": (length.mean(), ",.1f"),
        "history, greatest": (length.max(), ",d"),
        "rows without history": ((length == 0).mean(), ".2%"),
        "rows of cold items": (cold[0], ".2%"),
        "rows of cold users": (cold[1], ".2%"),
        "duplicates": (duplicates(split).mean(), ".2%"),
        "target in its history": (split.repeats.mean(), ".2%"),
    }


def _series(split: Split, out: Statistics) -> None:
    """What the plots are drawn from."""
    _, rows = np.unique(split.user, return_counts=True)
    out.held, out.per_user = np.sort(rows)[::-1], np.bincount(rows)
    _, place, counts = np.unique(split.item, return_inverse=True, return_counts=True)
    out.popularity = np.sort(counts)[::-1]
    if split.label is None:
        return
    labelled = split.label >= 0
    click = split.label == 1
    bucket = np.floor(np.log2(counts)).astype(np.int64)[place]  # 1, 2–3, 4–7, … rows
    out.by_popularity = [(2 ** (b + 1) - 1, rate, rows) for b, rate, rows in _rates(bucket[labelled], click[labelled])]
    if split.level is not None:
        out.by_level = [r for r in _rates(split.level[labelled], click[labelled]) if r[0] <= TOP_LEVEL]


def _rates(group: np.ndarray, click: np.ndarray) -> list[tuple[int, float, int]]:
    rows = np.bincount(group)
    clicks = np.bincount(group, weights=click)
    return [(int(g), float(clicks[g] / rows[g]), int(rows[g])) for g in np.flatnonzero(rows)]
