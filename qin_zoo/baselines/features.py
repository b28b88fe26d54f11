"""Columns for a line or for trees, of which none knows a row's own label, nor anything that came after it.

What is counted of items, users and categories stands at what the rows before told: training rows are read in order, in
blocks, and a block's features are made before its labels are counted. (Counted over all training rows, each row would
find its own label in its features; without that row, its label's opposite.) Validation and test rows see the whole of
the training rows and nothing of each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qin_zoo.baselines.rows import ITEM, Rows, View

SMOOTHING = 10.0  # rows of the average that every rate begins with
_BLOCKS = 64
_SLOTS = 1 << 24  # counters of a user's categories; where they are fewer than there could be, some are shared
_CODES = 16  # a vocabulary up to this size is told by its codes, too; a greater one by its rates alone
_TAGS = 64  # the same of lists
_NEWEST = 5
_DIRECTIONS = 32  # of an embedding, and of what is clicked together, for cosines
_GROWTH = 1.3  # of the rows, before what is clicked together is learned again
_LEAST = 3.0  # clicks
_SHOWN = 8  # of these that are columns themselves


@dataclass
class Table:
    """Columns of a split.

    Attributes:
        names: of the columns.
        values: (n, columns) float32.
        one_hot: columns that hold a small vocabulary's code, which a line takes as one column for each.
    """

    names: list[str]
    values: np.ndarray
    one_hot: dict[str, int]


class Tally:
    """Rows and clicks of each of ``size`` keys so far."""

    def __init__(self, size: int) -> None:
        self.rows, self.clicks = np.zeros(size, np.float32), np.zeros(size, np.float32)

    def add(self, keys: np.ndarray, label: np.ndarray) -> None:
        """Counts rows under their keys, (n,), or each of their keys, (n, T), of which 0 is none."""
        if keys.ndim > 1:
            label = np.broadcast_to(label[:, None], keys.shape)[keys > 0]
            keys = keys[keys > 0]
        np.add.at(self.rows, keys, 1)
        np.add.at(self.clicks, keys, label)

    def rate(self, keys: np.ndarray, prior: np.ndarray | float) -> np.ndarray:
        """(n,) smoothed click rates under these keys, (n,)."""
        return (self.clicks[keys] + SMOOTHING * prior) / (self.rows[keys] + SMOOTHING)


class Features:
    """Makes the columns of a view's rows."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._total, self._clicks = 0, 0.0
        self._tallies = {name: Tally(size) for name, size in view.sizes.items()}
        self._users = Tally(view.users)
        crossed = [name for name in view.sizes if name in view.of_item and view.user]
        self._crossed = {name: Tally(min(view.users * view.sizes[name], _SLOTS)) for name in crossed}
        self._vectors = {name: _directions(t) for name, t in view.tables.items() if view.forms[name] == "vector"}
        self._one_hot: dict[str, int] = {}
        self._taste = Taste(view.users, view.sizes[ITEM]) if view.user and view.has_history else None

    def fit_transform(self, label: np.ndarray, order: np.ndarray) -> Table:
        """The columns of the training rows, each from what stands before it; counts all of them.

        ``order``, (n,), are the rows in the order in which they happened, ``label`` (n,) theirs.
        """
        values = np.empty((0, 0), np.float32)
        for block in np.array_split(order, min(_BLOCKS, len(order))):
            read = list(self._view.read("train", block))
            for rows in read:
                columns = self._columns(rows)
                if not values.size:
                    values = np.empty((len(order), columns.shape[1]), np.float32)
                values[rows.index] = columns
            for rows in read:
                self._count(rows, label[rows.index])
            if self._taste is not None:
                mean = self._clicks / self._total
                self._taste.fit(self._tallies[ITEM].rate(np.arange(self._view.sizes[ITEM]), mean))
        return Table(self._names, values, self._one_hot)

    def transform(self, split: str) -> Table:
        """The columns of another split."""
        parts = [self._columns(rows) for rows in self._view.read(split, np.arange(self._view.rows(split)))]
        return Table(self._names, np.concatenate(parts), self._one_hot)

    def _count(self, rows: Rows, label: np.ndarray) -> None:
        for name, tally in self._tallies.items():
            tally.add(rows.values[name], label)
        for name, tally in self._crossed.items():
            tally.add(self._cross(rows, name), label)
        self._users.add(rows.user, label)
        if self._taste is not None:
            self._taste.add(rows, label)
        self._total, self._clicks = self._total + len(label), self._clicks + float(label.sum())

    def _cross(self, rows: Rows, name: str) -> np.ndarray:
        values, user = rows.values[name].astype(np.int64), rows.user
        keys = (user[:, None] if values.ndim > 1 else user) * self._view.sizes[name] + values
        return np.where(values > 0, keys % len(self._crossed[name].rows), 0)

    def _columns(self, rows: Rows) -> np.ndarray:
        """(n, columns) of some rows."""
        prior = (self._clicks + 1) / (self._total + 2)
        total = max(self._total, 1)
        columns: dict[str, np.ndarray] = {}
        user_rate = self._users.rate(rows.user, prior)
        if self._view.user is not None:
            columns["user rate"] = logit(user_rate) - logit(prior)
            columns["user rows"] = np.log1p(self._users.rows[rows.user])
        for name, tally in self._tallies.items():
            ids = rows.values[name]
            there = ids > 0
            columns[f"{name} rate"] = _mean(logit(tally.rate(ids, prior)) - logit(prior), there)
            if name == ITEM or name in self._view.of_item:
                columns[f"{name} rows"] = _share(_mean(tally.rows[ids], there), total)
            if name == ITEM:
                columns[f"{name} clicks"] = _share(tally.clicks[ids], total)
            if ids.ndim == 1 and self._view.sizes[name] <= _CODES:
                columns[name] = ids
                self._one_hot[name] = self._view.sizes[name]
            elif ids.ndim > 1 and self._view.sizes[name] <= _TAGS:
                columns |= {f"{name} {code}": (ids == code).any(1) for code in range(1, self._view.sizes[name])}
        for name, tally in self._crossed.items():
            keys = self._cross(rows, name)
            rate = user_rate[:, None] if keys.ndim > 1 else user_rate
            columns[f"user's {name} rate"] = _mean(logit(tally.rate(keys, rate)) - logit(rate), keys > 0)
            columns[f"user's {name} rows"] = np.log1p(_mean(tally.rows[keys], keys > 0))
        for name, form in self._view.forms.items():
            if form == "number":
                columns[name] = rows.values[name]
            elif form == "vector":
                vectors = self._vectors.get(name)
                vectors = rows.values[name] if vectors is None else vectors[rows.values[ITEM]]
                columns |= {f"{name} {i}": vectors[:, i] for i in range(min(_SHOWN, vectors.shape[1]))}
        if rows.valid.shape[1]:
            columns |= self._history(rows, prior)
        self._names = list(columns)
        return np.stack([column.astype(np.float32, copy=False) for column in columns.values()], axis=1)

    def _history(self, rows: Rows, prior: float) -> dict[str, np.ndarray]:
        """What history and target have to do with each other."""
        valid = rows.valid
        length = valid.sum(1)
        later = length[:, None] - np.cumsum(valid, axis=1)  # items of the history that came after each
        new = valid & (later < _NEWEST)
        columns = {"history length": np.log1p(length)}
        if ITEM in rows.past:
            past, target = rows.past[ITEM], rows.values[ITEM]
            tally = self._tallies[ITEM]
            rate = logit(tally.rate(past, prior)) - logit(prior)
            columns["history's rate"] = _mean(rate, valid)
            columns["history's rows"] = _mean(_share(tally.rows[past], max(self._total, 1)), valid)
            columns["history has it"] = ((past == target[:, None]) & valid).sum(1)
        liking = {}  # above the row's own mean
        for name, codes in rows.beside.items():
            mean = _mean(codes, valid)
            columns[f"history's {name}"], columns[f"newest's {name}"] = mean, _mean(codes, new)
            liking[name] = (codes - mean[:, None]) * valid
        for name, past in rows.past.items():
            if name == ITEM or self._view.forms[name] not in ("id", "ids"):
                continue
            target = rows.values[name]
            if past.ndim == 2:
                same = ((past == target[:, None]) & (past > 0)).astype(np.float32)
            else:
                in_both = (past[:, :, :, None] == target[:, None, None, :]) & (target > 0)[:, None, None, :]
                same = in_both.any(2).sum(2) / np.maximum((target > 0).sum(1), 1)[:, None].astype(np.float32)
            columns[f"history's share of {name}"] = _mean(same, valid)
            columns[f"newest's share of {name}"] = _mean(same, new)
            columns[f"most of {name}"] = np.where(valid, same, 0).max(1)
            columns |= {f"{beside} of {name}": _weighted(likes, same) for beside, likes in liking.items()}
        learned = self._taste.vectors if self._taste is not None else {}
        for name, vectors in (self._vectors | learned).items():
            past, target = vectors[rows.past[ITEM]], vectors[rows.values[ITEM]]
            cosine = np.einsum("nld,nd->nl", past, target)
            taste = np.einsum("nld,nl->nd", past, valid.astype(np.float32))
            taste /= np.linalg.norm(taste, axis=1, keepdims=True) + 1e-9
            columns[f"cosine of mean {name}"] = (taste * target).sum(1)
            columns[f"mean cosine of {name}"] = _mean(cosine, valid)
            columns[f"newest's cosine of {name}"] = _mean(cosine, new)
            columns[f"greatest cosine of {name}"] = np.where(valid, cosine, -1).max(1)
            near = np.where(valid, np.maximum(cosine, 0) ** 2, 0)
            columns |= {f"{beside} near in {name}": _weighted(likes, near) for beside, likes in liking.items()}
        return columns


class Taste:
    """Directions of items that the same users click: those of the users' clicks, and of clicks against the item's rate.

    Learned again when there is enough that is new; what two fits call a direction need not be the same, but cosines are
    compared within one. ``users`` and ``items`` are one more than their greatest numbers.
    """

    def __init__(self, users: int, items: int) -> None:
        self._shape = (users, items)
        self._seen: list[tuple[np.ndarray, ...]] = []
        self._fitted = 0
        self.vectors = {name: np.zeros((items, _DIRECTIONS), np.float32) for name in ("co-clicks", "taste")}

    def add(self, rows: Rows, label: np.ndarray) -> None:
        """Takes in rows and their labels, (n,)."""
        self._seen.append((rows.user, rows.values[ITEM], label.astype(np.float32)))

    def fit(self, rate: np.ndarray) -> None:
        """Learns from all rows so far; ``rate`` (items,) are the items' click rates."""
        if sum(len(label) for *_, label in self._seen) < _GROWTH * self._fitted:
            return
        user, item, label = (np.concatenate(parts) for parts in zip(*self._seen))
        self._seen, self._fitted = [(user, item, label)], len(label)
        known = user > 0
        for name, weight in (("co-clicks", label), ("taste", label - rate[item])):
            self.vectors[name] = self._directions(weight[known], user[known], item[known])

    def _directions(self, weight: np.ndarray, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        from scipy.sparse import csr_matrix
        from sklearn.utils.extmath import randomized_svd

        for ids in (user, item):  # who clicks much, and what is clicked much, counts less by click
            weight = weight * (np.bincount(ids, np.abs(weight))[ids] + _LEAST) ** -0.5
        clicks = csr_matrix((weight.astype(np.float32), (user, item)), self._shape)
        out = np.zeros((self._shape[1], _DIRECTIONS), np.float32)
        size = min(_DIRECTIONS, *self._shape)
        _, strength, directions = randomized_svd(clicks, size, n_iter=3, random_state=0)
        out[:, :size] = directions.T * strength
        return out / (np.linalg.norm(out, axis=1, keepdims=True) + 1e-9)


def logit(p: np.ndarray | float) -> np.ndarray:
    """log(p / (1 − p))."""
    return np.log(p) - np.log1p(-p)


def _share(counts: np.ndarray, total: float) -> np.ndarray:
    """Log of a share, which is comparable however many rows there were."""
    return np.log((counts + 1) / total)


def _mean(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The mean of each row's values that count, 0 without any; (n,) values as they are."""
    if values.ndim == 1:
        return values
    return (values * where).sum(1) / np.maximum(where.sum(1), 1)


def _weighted(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(n,) weighted means of (n, L), drawn to 0 as if by one more value of weight 1."""
    return (values * weights).sum(1) / (weights.sum(1) + 1)


def _directions(table: np.ndarray) -> np.ndarray:
    """(items, d) unit vectors along the table's widest directions; row 0, padding, is 0."""
    from sklearn.decomposition import PCA

    table = table.astype(np.float32)
    there = np.flatnonzero(np.abs(table).sum(1))
    out = np.zeros((len(table), min(_DIRECTIONS, table.shape[1], max(len(there), 1))), np.float32)
    if len(there) > 1:
        out[there] = PCA(out.shape[1], random_state=0).fit_transform(table[there])
        out /= np.linalg.norm(out, axis=1, keepdims=True) + 1e-9
    return out
