"""Which values of a model's tables rows hold, whichever layout their dataset has.

Values are numbered through all tables: value v of table n is ``first[n] + v``. Features that share a table share its
values; an item of a history counts like a target, and stands for the values of the features that the item table has of
it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from qin_zoo.batch import ItemBatch
from qin_zoo.data.loader import ColumnLoader
from qin_zoo.data.specs import table_owners
from qin_zoo.data.stored import blocks

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_ROWS = 1 << 14  # read at a time
_NONE = np.zeros(0, np.int64), np.zeros(0, np.int64)  # (row, value) pairs


class Values:
    """The values of a dataset's features.

    Args:
        features: of the feature map.

    Attributes:
        sizes: table, named by the first of its features -> number of its rows.
        first: table -> number of its first value.
        total: values of all tables.
    """

    def __init__(self, features: dict[str, dict]) -> None:
        self._features, self.table_of = features, table_owners(features)
        self.sizes = {name: int(features[name]["vocab_size"]) for name in dict.fromkeys(self.table_of.values())}
        ends = np.cumsum([0, *self.sizes.values()]).tolist()
        self.first, self.total = dict(zip(self.sizes, ends)), ends[-1]

    def split(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """An array (total,) over all values as one for each table."""
        return {name: values[first : first + self.sizes[name]] for name, first in self.first.items()}

    def occurring(self, loader: ColumnLoader) -> np.ndarray:
        """(total,) bool: the values that the loader's rows hold; padding is among them."""
        occurs, items, of_items = np.zeros(self.total, bool), np.zeros(0, bool), []
        occurs[[n + int(self._features[t].get("padding_idx") or 0) for t, n in self.first.items()]] = True
        for _, batch in _batches(loader):
            for ids in self._in_rows(batch):
                occurs[ids.ravel()] = True
            if isinstance(batch, ItemBatch):
                if not len(items):
                    of_items = list(self._numbered(batch.items))
                    items = np.zeros(len(next(iter(batch.items.values()))), bool)
                items[batch.item_ids.numpy().ravel()] = True
        items[:1] = False  # padding
        for ids in of_items:
            occurs[ids[items].ravel()] = True
        return occurs

    def held(self, loader: ColumnLoader, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each of the loader's rows the ``wanted`` values (total,) that it holds, each once.

        Returns:
            ``starts`` (N + 1,) and ``values``: row i holds ``values[starts[i]:starts[i + 1]]``.
        """
        rows, values, carried = [], [], None
        for first, batch in _batches(loader):
            pairs = [_NONE, *(_pairs(ids, wanted) for ids in self._in_rows(batch))]
            if isinstance(batch, ItemBatch):
                ids = batch.item_ids.numpy()
                carried = self._carried(batch.items, wanted) if carried is None else carried
                place, value = carried[ids.ravel()].nonzero()
                pairs.append((place // ids.shape[1], value))
            row, value = (np.concatenate(part) for part in zip(*pairs))
            row, value = np.divmod(np.unique(row * self.total + value), self.total)
            rows.append(row + first)
            values.append(value)
        rows = np.concatenate(rows)
        return np.searchsorted(rows, np.arange(loader.num_samples + 1)), np.concatenate(values)

    def _carried(self, items: dict[str, Tensor], wanted: np.ndarray) -> csr_array:
        """(items, total): the wanted values of each item; padding has none."""
        from scipy.sparse import csr_array  # half a second that every training would wait

        pairs = [_NONE, *(_pairs(ids, wanted) for ids in self._numbered(items))]
        item, value = (np.concatenate(part) for part in zip(*pairs))
        return csr_array((item > 0, (item, value)), shape=(len(next(iter(items.values()))), self.total))

    def _in_rows(self, batch) -> Iterator[np.ndarray]:
        """The values that stand in the rows themselves, an array (B, T) for each feature."""
        return self._numbered({**batch.rows, **batch.beside} if isinstance(batch, ItemBatch) else batch)

    def _numbered(self, columns: dict[str, Tensor]) -> Iterator[np.ndarray]:
        for name, owner in self.table_of.items():
            if name in columns:
                yield columns[name].long().numpy().reshape(len(columns[name]), -1) + self.first[owner]


def _pairs(ids: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row, value) where rows (B, T) hold a wanted value."""
    row, column = np.nonzero(wanted[ids])
    return row, ids[row, column]


@torch.no_grad()
def _batches(loader: ColumnLoader) -> Iterator[tuple[int, object]]:
    """The loader's rows in the file's order, with the number of the first of each batch."""
    for rows in blocks(loader.num_samples, _ROWS):
        yield int(rows[0]), loader.batch(rows)
