"""What an item was called before it became a row of the item table."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import polars as pl

ID_FILE, WORD_FILE = "ids_item.parquet", "vocabularies.json"
# Files that `qin-zoo data import` writes and the challenge's raw one, with their columns of titles, the best first.
_TITLES = {"item_text.parquet": ("item_title", "text"), "item_feature.parquet": ("item_title",)}


def original_ids(file: Path, number: str = "item_id") -> dict[int, object]:
    """Row of the item table -> id in the dataset's source; empty without such a file, or without such columns in it.

    Args:
        file: the dataset's :data:`ID_FILE`, or a table of new items.
        number: the column with the rows; ``user_id`` of the users' file.
    """
    columns = [number, "original_id"]
    if not file.is_file() or not set(columns) <= set(pl.scan_parquet(file, glob=False).collect_schema()):
        return {}
    return dict(pl.read_parquet(file, glob=False, columns=columns).iter_rows())


def item_titles(folder: Path, items: Iterable[int]) -> dict[int, str]:
    """Row of the item table -> title or text, of those items that have one.

    Args:
        folder: of the dataset.
        items: rows of the item table.
    """
    wanted = list(items)
    for name, columns in _TITLES.items():
        file = Path(folder) / name
        there = set(pl.scan_parquet(file, glob=False).collect_schema()) if file.is_file() else set()
        column = next((c for c in columns if c in there), None)
        if column is not None and "item_id" in there:
            number = pl.col("item_id").cast(pl.Int64, strict=False)
            rows = pl.scan_parquet(file, glob=False).filter(number.is_in(wanted)).select(number, column).collect()
            return {item: str(title) for item, title in rows.iter_rows() if title}
    return {}
