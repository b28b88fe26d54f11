"""What numbers of a dataset stand for: ids, titles and words of its source, where an import or encoding kept them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import polars as pl

from qin_zoo.data.dataset import Dataset
from qin_zoo.data.vocabulary import FittedEncoder
from qin_zoo.files import read_object

ID_FILE = "ids_item.parquet"
WORD_FILE = "vocabularies.json"  # of an import: column -> words; word i has the code i + 1
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
    """Row of the item table -> title or text, of those ``items`` of the dataset in a folder that have one."""
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


def words_of(dataset: Dataset) -> Callable[[str, int], str | None]:
    """A function that says what a feature's number was in the source of a dataset; None where that is not known."""
    features = dataset.feature_map.features
    if dataset.encoder_file is not None:
        vocabularies = FittedEncoder.read(dataset.encoder_file).vocabularies

        def encoded(name: str, number: int) -> str | None:
            owner = features.get(name, {}).get("share_embedding") or name
            return vocabularies[owner].word(number) if owner in vocabularies else None

        return encoded
    kept = read_object(dataset.folder / WORD_FILE)

    def imported(name: str, number: int) -> str | None:
        words = kept.get(name)
        known = isinstance(words, list) and 0 < number <= len(words)
        return str(words[number - 1]) if known else None

    return imported
