"""The item table: its columns, and that row i describes item i."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from qin_zoo.data.columns import Table, open_table
from qin_zoo.data.histories import gather_lists
from qin_zoo.data.sources import at
from qin_zoo.data.stored import Column
from qin_zoo.errors import DataError
from qin_zoo.feature_types import FEATURE_TYPES, type_of


def as_stored(spec: Mapping[str, object]) -> Mapping[str, object]:
    """A feature as its column is: vectors that no model embeds are of type ``meta`` and have a ``pretrain_dim``."""
    return {**spec, "type": "embedding"} if spec["type"] == "meta" and spec.get("pretrain_dim") else spec


def kind_of(spec: Mapping[str, object]) -> str:
    """The kind of a feature's column, of :data:`~qin_zoo.data.stored.KINDS`."""
    return type_of(as_stored(spec)).kind


def open_item_table(
    path: str | Path, types: Mapping[str, str], index_column: str = "item_id", cache_dir: str | Path | None = None
) -> Table:
    """The columns of an item table, checked to describe item i in row i.

    Args:
        path: the parquet file.
        types: feature name -> feature type (``categorical``, ``sequence``, ``embedding``, ``numeric``, ``meta``).
        index_column: the column that numbers the items: ``item_id``, or ``item_index`` where histories stand per
            user.

    Raises:
        DataError: row i is not item i, there is no padding row 0, or a column cannot be used (nulls, NaN or
            infinite values, vectors of differing length, …; in an item table "row" names the item).
    """
    kinds = {name: FEATURE_TYPES[kind].kind for name, kind in types.items()} | {index_column: "id"}
    table = open_table(path, kinds, cache_dir=cache_dir)
    index = table[index_column]
    expected = np.arange(table.num_rows)
    wrong = np.flatnonzero(index.values != expected)
    if wrong.size:
        row = int(wrong[0])
        message = f"{at(index.path, index_column, row)}: expected item {row}, found item {index.values[row]}. "
        if row == 0 and np.array_equal(index.values, expected + 1):
            raise DataError(
                message + "The padding row is missing: put a row for item 0 before the first, with 0 for "
                "ids, a list of zeros for lists and a vector of zeros for embeddings."
            )
        raise DataError(
            message + f"Row i has to describe item i, row 0 being padding: sort by {index_column}, drop "
            "repeated items and give every missing id a row (0 for ids, zeros for embeddings)."
        )
    return table


def matrix(column: Column) -> np.ndarray:
    """A column as one array, (N,) or (N, width), lists filled up with 0 at the end."""
    dtype = np.float32 if column.values.dtype.kind == "f" else np.int64
    if column.kind == "ids":
        rows = np.arange(column.rows)
        return gather_lists(column.values, *column.bounds(rows), max(column.longest, 1), align="left")
    return column.take(slice(None)).astype(dtype, copy=False)
