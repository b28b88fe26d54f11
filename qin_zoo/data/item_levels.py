"""What is known of every item once the whole log has happened: where the next day's rows begin."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl

ITEM_LEVELS = "item_levels.parquet"


def item_levels(folder: Path, features: Iterable[str]) -> dict[str, np.ndarray]:
    """Row features that the log tells of an item, (items,) int64 each, row i being item i.

    Args:
        folder: of the dataset.
        features: of its rows.

    Returns:
        those of ``features`` that ``qin-zoo data import`` counted in the log; empty of other datasets.
    """
    file = Path(folder) / ITEM_LEVELS
    if not file.is_file():
        return {}
    table = pl.read_parquet(file, glob=False)
    if not (table["item_id"] == pl.int_range(len(table), eager=True)).all():
        return {}
    return {name: table[name].cast(pl.Int64).to_numpy() for name in features if name in table.columns[1:]}
