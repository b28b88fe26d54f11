"""The rows of a dataset as numpy arrays, of either layout: what they say of user, target item, context and history."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qin_zoo.batch import ItemBatch
from qin_zoo.data import SPLITS, USERS
from qin_zoo.data.dataset import Dataset
from qin_zoo.data.specs import field_groups
from qin_zoo.feature_types import has_table, type_of

ITEM = "item"  # the target's number, whatever the layout calls it
_AT_ONCE = 8192


@dataclass(frozen=True)
class Rows:
    """Some rows of a split.

    Attributes:
        index: (n,) which of the split's used rows they are.
        user: (n,) numbers, 0 where the training rows have no such user, or nobody says whose rows they are.
        values: feature -> (n,), (n, T) ids padded with 0, or (n, d) numbers, of context and target item.
        past: the same of the history's items, for the features that it has: (n, L), (n, L, T).
        beside: what is known of the history's items besides, such as their ratings: (n, L) codes from 1.
        valid: (n, L) whether the history has an item there; oldest first.
    """

    index: np.ndarray
    user: np.ndarray
    values: dict[str, np.ndarray]
    past: dict[str, np.ndarray]
    beside: dict[str, np.ndarray]
    valid: np.ndarray


class View:
    """The rows of a dataset, by the part that each feature plays.

    Args:
        dataset: open.
        params: name the pairs of named fields (``target_field``, ``sequence_field``), and by ``group_id`` the user
            where no column has a user's usual name.

    Attributes:
        user: the column that says whose row it is, or None.
        users: one more than the greatest number of a user.
        forms: feature of context or target -> what one value is; :data:`ITEM` is the first, where rows name an item.
        sizes: feature with ids -> one more than the greatest id.
        tables: feature -> what it is for each item, where there is an item table.
        of_item: features of the target, other than its number, that the history's items have, too.
        has_history: whether rows have one.
    """

    def __init__(self, dataset: Dataset, params: Mapping[str, Any]) -> None:
        features = dataset.feature_map.features
        self._loaders = {split: dataset.loader(split, shuffle=False) for split in SPLITS if dataset.has(split)}
        self._rows = {split: dataset.used_rows(split) for split in self._loaders}
        train = self._loaders["train"]
        self.user = next((name for name in USERS if name in train.table), params.get("group_id"))
        self.tables: dict[str, np.ndarray] = {}
        self._item: str | None = None  # what named fields call the item
        self._pairs: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        if train.batch_layout == "fields":
            self._pairs = _pairs(features, params)
            self._item = next(iter(self._pairs), "item_id" if "item_id" in features else None)
            if self._item:
                self.sizes[ITEM] = int(features[self._item]["vocab_size"])
        else:
            tables = {n: table.numpy() for n, table in train.items.items() if type_of(features[n]).embedded}
            self.sizes[ITEM] = max(map(len, tables.values()), default=int(train.target.max) + 1)
            itself = np.arange(self.sizes[ITEM])
            self.tables = {n: t for n, t in tables.items() if t.ndim > 1 or not np.array_equal(t, itself)}
        self.forms = dict.fromkeys(self.sizes, "id")
        self.of_item = {*self.tables, *self._pairs} - {self._item}
        self.has_history = bool(self._pairs) if train.batch_layout == "fields" else train.histories.max_len > 0
        apart = {self.user, self._item, *self._pairs.values()}
        for name, spec in features.items():
            source = spec.get("source")
            if not type_of(spec).embedded or name in apart or source == "history":
                continue
            if source != "item" or name in self.tables:
                self.forms[name] = type_of(spec).form
                if has_table(spec):
                    self.sizes[name] = int(spec["vocab_size"])
        self._users = np.unique(self.column("train", self.user)) if self.user else np.empty(0, np.int64)
        self.users = len(self._users) + 1

    def rows(self, split: str) -> int:
        """Number of the split's used rows."""
        return len(self._rows[split])

    def column(self, split: str, name: str) -> np.ndarray:
        """(n,) values of a column of the file that stands for itself, of the used rows."""
        return self._loaders[split].table[name].take(self._rows[split])

    def items(self, split: str) -> np.ndarray:
        """(n,) target items."""
        loader = self._loaders[split]
        return (loader.table[self._item] if self._item else loader.target).take(self._rows[split]).astype(np.int64)

    def user_numbers(self, split: str) -> np.ndarray:
        """(n,) users as :class:`Rows` numbers them."""
        if self.user is None:
            return np.zeros(self.rows(split), np.int64)
        return self._number(self.column(split, self.user))

    def _number(self, users: np.ndarray) -> np.ndarray:
        place = np.minimum(np.searchsorted(self._users, users), len(self._users) - 1)
        return np.where(self._users[place] == users, place + 1, 0)

    def read(self, split: str, index: np.ndarray) -> Iterator[Rows]:
        """These, (n,), of the split's used rows, some thousand at a time."""
        for begin in range(0, len(index), _AT_ONCE):
            part = index[begin : begin + _AT_ONCE]
            batch, user = self._loaders[split].batch(part), np.zeros(len(part), np.int64)
            if self.user:
                user = self._number(self._loaders[split].table[self.user].take(self._rows[split][part]))
            of = self._of_items if isinstance(batch, ItemBatch) else self._of_fields
            yield of(part, user, batch)

    def _of_items(self, index: np.ndarray, user: np.ndarray, batch: ItemBatch) -> Rows:
        target, history = batch.target.numpy(), batch.history.numpy()
        values = {name: v.numpy() for name, v in batch.rows.items() if name in self.forms}
        values |= {ITEM: target, **{name: table[target] for name, table in self.tables.items()}}
        past = {ITEM: history, **{name: table[history] for name, table in self.tables.items() if table.ndim < 2}}
        past |= {name: table[history] for name, table in self.tables.items() if self.forms[name] == "ids"}
        beside = {name: codes.numpy() for name, codes in batch.beside.items()}
        return Rows(index, user, values, past, beside, history != 0)

    def _of_fields(self, index: np.ndarray, user: np.ndarray, batch: Mapping[str, Any]) -> Rows:
        names = {name: ITEM if name == self._item else name for name in batch}
        values = {names[name]: v.numpy() for name, v in batch.items() if names[name] in self.forms}
        past = {names[name]: batch[sequence].numpy() for name, sequence in self._pairs.items()}
        first = next(iter(past.values()), np.zeros((len(index), 0), np.int64))
        return Rows(index, user, values, past, {}, first != 0)


def _pairs(features: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, str]:
    """Target field -> the sequence of the same, as configured, or as embeddings are shared; one for each target."""
    groups = [field_groups(params.get(key)) for key in ("target_field", "sequence_field")]
    targets, sequences = ([name for group in part for name in group] for part in groups)
    if targets:
        pairs = list(zip(targets, sequences))
    else:
        shared = ((spec.get("share_embedding"), name) for name, spec in features.items() if spec["type"] == "sequence")
        pairs = [(target, name) for target, name in shared if target in features]
    found: dict[str, str] = {}
    for target, sequence in pairs:
        if features[target]["type"] == "categorical":
            found.setdefault(target, sequence)
    return found
