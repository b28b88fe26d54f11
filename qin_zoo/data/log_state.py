"""What is known of every item and every user once the whole log has happened: where the next day's rows begin."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl

ITEM_LEVELS, USER_STATE = "item_levels.parquet", "user_state.parquet"
_USER_FEATURES = "user_features.parquet"


def item_levels(folder: Path, features: Iterable[str]) -> dict[str, np.ndarray]:
    """Row features that the log tells of an item, (items,) int64 each, row i being item i.

    Returns:
        those of ``features`` that ``qin-zoo data import`` counted in the log; empty of other datasets.
    """
    table = _numbered(Path(folder) / ITEM_LEVELS)
    return {name: table[name].cast(pl.Int64).to_numpy() for name in features if name in table.columns[1:]}


def user_side(folder: Path, features: Iterable[str]) -> dict[str, np.ndarray]:
    """Row features that are the user's, (users,) each, row i being user i: counted in the log, or of a users' table.

    Returns:
        those of ``features`` that ``qin-zoo data import`` knows of its users; empty of other datasets.
    """
    tables = [_numbered(Path(folder) / name) for name in (USER_STATE, _USER_FEATURES)]
    known = {column.name: column for table in tables for column in table.get_columns()[1:]}
    return {n: known[n].to_numpy() for n in features if n in known and not isinstance(known[n].dtype, pl.List)}


def user_lists(folder: Path, names: Iterable[str]) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
    """Every user's history after the whole log, oldest first.

    Args:
        folder: of the dataset.
        names: of the lists: the items, and what stands beside them.

    Returns:
        (users + 1,) where each user's entries end and the next one's begin, the first being 0; and name -> entries of
        all users. None of datasets that ``qin-zoo data import`` has not written.
    """
    table = _numbered(Path(folder) / USER_STATE)
    lists = {name: table[name] for name in names if name in table.columns[1:]}
    if not lists:
        return None
    lengths = next(iter(lists.values())).list.len().to_numpy()
    entries = {name: column.to_arrow().flatten().to_numpy(zero_copy_only=False) for name, column in lists.items()}
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), entries


def log_end(folder: Path) -> float | None:
    """When the last interaction happened that an import of one's own table holds, in seconds since 1970.

    Returns:
        None of other datasets, and of logs without times.
    """
    file = Path(folder) / "log.parquet"
    if not file.is_file() or "time" not in pl.read_parquet_schema(file):
        return None
    return pl.scan_parquet(file, glob=False).select(pl.col("time").max()).collect().item() / 1e9


def _numbered(file: Path) -> pl.DataFrame:
    """A table whose row i is number i, the numbers in its first column; an empty one where there is none."""
    table = pl.read_parquet(file, glob=False) if file.is_file() else pl.DataFrame()
    if not table.width or not (table.to_series(0) == pl.int_range(len(table), eager=True)).all():
        return pl.DataFrame()
    return table
