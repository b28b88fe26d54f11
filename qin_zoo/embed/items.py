"""What is encoded: the texts, images or row numbers of a dataset folder's items, with a fingerprint.

Row i is item i; row 0 is padding. An item without an input is left to the store as a row of zeros.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from qin_zoo.data.item_files import ITEM_FILE
from qin_zoo.data.sources import ParquetSource, at, readable
from qin_zoo.errors import DataError, suggest

# Where a column of text is looked for, in this order.
TEXT_FILES = ("item_text.parquet", "item_kg.parquet", "item_feature.parquet", ITEM_FILE)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
_SLICE = 65_536


class Inputs(Protocol):
    """The inputs of N items.

    Attributes:
        modality: ``text``, ``image`` or ``vector``: what the entries of a batch are.
        fingerprint: SHA-256 over item ids and inputs.
    """

    modality: str

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int:
        """N, padding included."""

    def batch(self, start: int, stop: int) -> tuple[np.ndarray, Sequence[Any]]:
        """Of the items ``start`` to ``stop``, those that have an input: ids (B,) and inputs."""


class TextInputs:
    """Texts by item id; empty ones count as missing."""

    modality = "text"

    def __init__(self, texts: pl.Series) -> None:
        self._texts = texts.fill_null("").str.strip_chars()
        self._texts[0] = ""  # padding has no text

    def __len__(self) -> int:
        return len(self._texts)

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"texts {len(self)}".encode())
        for start in range(0, len(self), _SLICE):
            part = [text.encode() for text in self._texts[start : start + _SLICE].to_list()]
            digest.update(np.array([len(text) for text in part], "<i8").tobytes())  # where each text ends
            digest.update(b"".join(part))
        return digest.hexdigest()

    def batch(self, start: int, stop: int) -> tuple[np.ndarray, Sequence[str]]:
        """Ids (B,) and texts of the items that have one."""
        texts = self._texts[start:stop].to_list()
        there = [i for i, text in enumerate(texts) if text]
        return np.array(there, np.int64) + start, [texts[i] for i in there]

    def sample(self, limit: int) -> list[str]:
        """All texts, or ``limit`` of them at even distances."""
        texts = self._texts.filter(self._texts != "")
        if len(texts) > limit:
            texts = texts.gather(np.linspace(0, len(texts) - 1, limit).astype(np.int64))
        return texts.to_list()


class ImageInputs:
    """Image files ``<item id>.jpg`` (or .png, .webp, …) of a folder; a batch holds their paths.

    Args:
        folder: the images.
        num_items: items of the table, padding included.
        numbers: name -> item id, where the images are named otherwise; files of other names are left out.
    """

    modality = "image"

    def __init__(self, folder: str | Path, num_items: int, numbers: Mapping[str, int] | None = None) -> None:
        folder = Path(folder)
        if not folder.is_dir():
            raise DataError(f"{folder}: expected a folder of images named by item id, found none. Check the path.")
        self._num_items = num_items
        self._files: dict[int, tuple[str, int, int]] = {}
        self._folder = folder
        for entry in sorted(os.scandir(folder), key=lambda e: e.name):
            stem, suffix = os.path.splitext(entry.name)
            numbered = int(stem) if stem.isascii() and stem.isdigit() else 0
            item = numbered if numbers is None else numbers.get(stem, 0)
            if suffix.lower() in IMAGE_SUFFIXES and 0 < item < num_items:
                if item in self._files:
                    other = self._files[item][0]
                    raise DataError(f"{folder}: two images of item {item}: {other}, {entry.name}. Keep one.")
                stat = entry.stat()
                self._files[item] = (entry.name, stat.st_size, stat.st_mtime_ns)
        if not self._files:
            example = "1" if numbers is None else next(iter(numbers), "…")
            raise DataError(
                f"{folder}: expected images named by item id, such as {example}.jpg, of {num_items - 1} items; found "
                f"none ({', '.join(IMAGE_SUFFIXES)} count). Rename them."
            )

    def __len__(self) -> int:
        return self._num_items

    @cached_property
    def fingerprint(self) -> str:
        """Over names, sizes and times of change: reading every image twice would take too long."""
        about = "".join(repr((item, *self._files[item])) for item in sorted(self._files))
        return hashlib.sha256(f"images {len(self)}{about}".encode()).hexdigest()

    def batch(self, start: int, stop: int) -> tuple[np.ndarray, Sequence[Path]]:
        """Ids (B,) and paths of the images there are."""
        ids = [i for i in range(start, stop) if i in self._files]
        return np.array(ids, np.int64), [self._folder / self._files[i][0] for i in ids]


def count_items(folder: str | Path) -> int:
    """Rows of the item table, padding included.

    Raises:
        DataError: there is no readable item table.
    """
    return ParquetSource(Path(folder) / ITEM_FILE).num_rows


def original_ids(folder: str | Path) -> dict[str, int]:
    """Original id, as text -> item id, as an import numbered them.

    Raises:
        DataError: the folder is not an import's.
    """
    path = Path(folder) / "ids_item.parquet"
    names = ParquetSource(path).names
    if not {"item_id", "original_id"} <= set(names):
        raise DataError(f"{path}: expected item_id and original_id, found {', '.join(names)}. Import the data again.")
    frame = pl.read_parquet(path, columns=["original_id", "item_id"], glob=False)
    return dict(zip(frame["original_id"].cast(pl.String), frame["item_id"]))


def read_texts(folder: str | Path, columns: Iterable[str] = ("text",), source: str | Path | None = None) -> TextInputs:
    """The texts of the columns, one after the other.

    Args:
        folder: a dataset folder with ``item_info.parquet``.
        columns: looked for in ``item_text``, ``item_kg``, ``item_feature`` and ``item_info.parquet``. Lists of
            strings, such as the knowledge graph's ``facts``, become one text.
        source: look in this parquet file instead; it needs ``item_id``.

    Raises:
        DataError: no such column, one that is no text, or ids that are no item of the table.
    """
    folder, columns = Path(folder), list(dict.fromkeys(columns))
    num_items = count_items(folder)
    frame = pl.DataFrame({"item_id": np.arange(num_items, dtype=np.int64)})
    for position, name in enumerate(columns):
        part = _text_column(_file_of(folder, name, source), name, num_items)
        frame = frame.join(part.rename({name: f"_{position}"}), on="item_id", how="left", maintain_order="left")
    joined = pl.concat_str([f"_{i}" for i in range(len(columns))], separator=". ", ignore_nulls=True)
    texts = TextInputs(frame.select(joined.alias("text"))["text"])
    if not texts.sample(1):
        raise DataError(f"{folder}: column(s) {', '.join(columns)}: no item has a text. Name other columns.")
    return texts


def check_ids(path: Path, ids: np.ndarray, num_items: int) -> None:
    """Raises DataError unless the ids (n,) of a file lie in the item table and no id comes twice."""
    outside = np.flatnonzero((ids < 0) | (ids >= num_items))
    if outside.size:
        row = int(outside[0])
        raise DataError(
            f"{at(path, 'item_id', row)}: expected an item of the table (0 to {num_items - 1:,}), found {ids[row]}. "
            "Drop the row, or take the item table that belongs to this file."
        )
    values, counts = np.unique(ids, return_counts=True)
    if len(values) < len(ids):
        raise DataError(f"{path}, column 'item_id': item {values[counts > 1][0]} comes more than once. Keep one row.")


def _file_of(folder: Path, column: str, source: str | Path | None) -> Path:
    known: list[str] = []
    for path in [Path(source)] if source is not None else [folder / name for name in TEXT_FILES]:
        if source is None and not path.exists():
            continue
        names = ParquetSource(path).names
        if column in names and column != "item_id":
            return path
        known += [name for name in names if name != "item_id"]
    raise DataError(
        f"{source or folder}: expected a column '{column}', found {', '.join(dict.fromkeys(known))}."
        f"{suggest(column, known)} Name the columns to encode with --text, another file with --source."
    )


def _text_column(path: Path, name: str, num_items: int) -> pl.DataFrame:
    """Columns item_id (int64) and ``name`` (string) of a parquet file."""
    if "item_id" not in ParquetSource(path).names:
        raise DataError(f"{path}: expected a column 'item_id' beside '{name}', found none. Rename the id column.")
    with readable(path):
        frame = pl.from_arrow(pq.read_table(path, columns=["item_id", name]))
    if not frame["item_id"].dtype.is_integer() or frame["item_id"].null_count():
        raise DataError(f"{at(path, 'item_id')}: expected whole numbers, found {frame['item_id'].dtype} or nulls.")
    kind = frame[name].dtype
    text = pl.col(name)
    if kind == pl.List(pl.String):
        text = text.list.join(". ", ignore_nulls=True)
    elif kind.is_numeric() or isinstance(kind, pl.Categorical):
        text = text.cast(pl.String)
    elif kind != pl.String:
        raise DataError(f"{at(path, name)}: expected text or lists of text, found {kind}. Name another column.")
    check_ids(path, frame["item_id"].to_numpy(), num_items)
    # an empty text is dropped, so that joining columns leaves no stray ". "
    return frame.select(pl.col("item_id").cast(pl.Int64), text.alias(name)).filter(pl.col(name).str.strip_chars() != "")
