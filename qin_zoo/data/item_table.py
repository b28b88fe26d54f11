"""The item table as tensors, loaded once and shared by every loader that asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qin_zoo.data.cache import source_key
from qin_zoo.data.columns import Table, open_table
from qin_zoo.data.histories import gather_lists
from qin_zoo.data.item_codes import compute, source_column, vary
from qin_zoo.data.sources import at, check_file
from qin_zoo.data.stored import Column
from qin_zoo.data.variations import UNVARIED, Variation
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


def load_item_table(
    path: str | Path,
    specs: Mapping[str, Mapping[str, object]],
    index_column: str = "item_id",
    cache_dir: str | Path | None = None,
    variation: Variation = UNVARIED,
) -> dict[str, Tensor]:
    """The item table as tensors: the same ones for every call with the same file and features.

    Args:
        path: the parquet file, row i describing item i and row 0 padding.
        specs: feature name -> specification; its ``type`` is what counts.
        index_column: see :func:`open_item_table`.
        variation: what is done to embeddings, and shows in the features that are computed from them.

    Returns:
        name -> (N,) int64 for categorical and meta features, (N,) float32 for numeric ones, (N, T) int64 for
        sequences (T the longest, shorter ones padded with 0 at the end), (N, dim) float32 for embeddings.

    Raises:
        DataError: see :func:`open_item_table`.
    """
    path = Path(path)
    check_file(path)
    columns = {source_column(spec) or name: spec for name, spec in specs.items()}
    types = tuple((name, "embedding" if source_column(s) else str(as_stored(s)["type"])) for name, s in columns.items())
    stored = _load(path.resolve(), source_key(path), types, index_column, cache_dir)
    varied = variation.items(stored, dict(types))

    def computed(spec: Mapping[str, object], source: str) -> Tensor:
        ids = compute(spec, stored[source], path, cache_dir)
        return ids if varied[source] is stored[source] else vary(spec, ids, stored[source], varied[source])

    return {
        name: computed(spec, source) if (source := source_column(spec)) else varied[name]
        for name, spec in specs.items()
    }


@lru_cache(maxsize=2)  # the table in use and one more: each can be hundreds of megabytes
def _load(
    path: Path, key: str, types: tuple[tuple[str, str], ...], index_column: str, cache_dir: str | Path | None
) -> dict[str, Tensor]:
    table = open_item_table(path, dict(types), index_column, cache_dir)
    return {name: torch.from_numpy(matrix(table[name])) for name, _ in types}


def matrix(column: Column) -> np.ndarray:
    """A column as one array, (N,) or (N, width), lists filled up with 0 at the end."""
    dtype = np.float32 if column.values.dtype.kind == "f" else np.int64
    if column.kind == "ids":
        rows = np.arange(column.rows)
        return gather_lists(column.values, *column.bounds(rows), max(column.longest, 1), align="left")
    return column.take(slice(None)).astype(dtype, copy=False)
