"""The catalogue's rows: those of the dataset, with items added or replaced that the model was not trained with."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from qin_zoo.data.columns import open_table
from qin_zoo.data.item_table import kind_of, matrix
from qin_zoo.data.rows import check_spec
from qin_zoo.data.sources import check_file
from qin_zoo.data.specs import source_column
from qin_zoo.errors import DataError
from qin_zoo.export.request import numbering


@dataclass(frozen=True)
class Catalogue:
    """The items of an export.

    Attributes:
        items: feature name -> (U, …), row 0 padding.
        replaced, added: how many rows were changed, and how many are new.
    """

    items: dict[str, Tensor]
    replaced: int = 0
    added: int = 0


def update_items(items: Mapping[str, Tensor], specs: Mapping[str, Mapping], path: Path, index: str) -> Catalogue:
    """The item table with the rows of a file put in.

    Args:
        items: the table, feature name -> (U, …).
        specs: of its features.
        path: parquet file with the column ``index`` and one for each feature, whose ids say which rows they are. Ids
            from U on are new; each of them up to the largest must be there. Of items that the model has no embedding
            for the padding's is taken.
        index: name of the column with the items' ids.

    Raises:
        DataError: a column that is missing or cannot be used, an id given twice, or a gap between the new ids.
    """
    check_file(path)
    numbers = numbering(items, specs)
    columns = {name: spec for name, spec in specs.items() if name in items and name not in numbers}
    computed = next((name for name, spec in columns.items() if source_column(spec)), None)
    if computed is not None and computed not in pl.scan_parquet(path, glob=False).collect_schema():
        raise DataError(
            f"{path}: no column '{computed}'. It is computed from the whole item table, and computing it anew would "
            "change the items that the model was trained with: add the ids of these items to the file as a column."
        )
    kinds = {name: kind_of(spec) for name, spec in columns.items()} | {index: "id"}
    with tempfile.TemporaryDirectory() as folder:
        table = open_table(path, kinds, cache_dir=folder)
        ids = table[index].values.astype(np.int64)
        values = {}
        for name, spec in columns.items():
            check_spec(table[name], name, spec)
            values[name] = torch.from_numpy(matrix(table[name]))
    count = len(next(iter(items.values())))
    size, where = _new_size(ids, count, path, index), torch.from_numpy(ids)
    updated = {name: _put(items[name], where, values[name], size, name, path) for name in columns}
    for name in numbers:
        known = torch.arange(size)
        updated[name] = torch.where(known < specs[name]["vocab_size"], known, 0)
    replaced = int((ids < count).sum())
    return Catalogue({name: updated[name] for name in items}, replaced, len(ids) - replaced)


def _new_size(ids: np.ndarray, count: int, path: Path, index: str) -> int:
    """Rows of the updated table."""
    distinct, times = np.unique(ids, return_counts=True)
    if (times > 1).any():
        raise DataError(f"{path}: item {distinct[times > 1][0]} has {times.max()} rows; give each item one.")
    if len(ids) and distinct[0] == 0:
        raise DataError(f"{path}, column '{index}': item 0 is padding and cannot be replaced. Leave the row out.")
    size = max(count, int(distinct[-1]) + 1 if len(ids) else 0)
    missing = np.setdiff1d(np.arange(count, size), distinct)
    if len(missing):
        raise DataError(
            f"{path}: item {missing[0]} is missing. The table ends at item {count - 1}, and new items have the numbers "
            f"that follow, without gaps; found {int(distinct[-1])}."
        )
    return size


def _put(old: Tensor, where: Tensor, new: Tensor, size: int, name: str, path: Path) -> Tensor:
    if old.dim() == 2 and old.shape[1] != new.shape[1]:
        if old.is_floating_point():
            raise DataError(f"{path}: '{name}' has vectors of {new.shape[1]} numbers, expected {old.shape[1]}.")
        width = max(old.shape[1], new.shape[1])
        old, new = (torch.nn.functional.pad(t, (0, width - t.shape[1])) for t in (old, new))
    out = torch.cat([old, old.new_zeros(size - len(old), *old.shape[1:])])
    out[where] = new.to(out.dtype)
    return out
