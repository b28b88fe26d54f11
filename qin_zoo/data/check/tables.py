"""Parquet files read batch by batch, nulls and all: a check goes on where a loader stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from qin_zoo.data.sources import ParquetSource, decoded

BATCH_ROWS = 32_768
"""Rows decoded at a time: histories of 100 ids are 26 MB."""
_MATRIX_ENTRIES = 4 << 20
Advance = Callable[[int], object]  # is told the rows that were read


class Lists(NamedTuple):
    """The lists of consecutive rows.

    Attributes:
        values: their entries end to end; 0 for nulls.
        offsets: (rows + 1,) int64.
        null: (rows,) bool, a null list or one with a null in it.
    """

    values: np.ndarray
    offsets: np.ndarray
    null: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """(rows,) entries of each."""
        return np.diff(self.offsets)

    @property
    def owner(self) -> np.ndarray:
        """(entries,) the row of each."""
        return np.repeat(np.arange(len(self.null)), self.lengths)

    def first(self, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rows,) bool, which lists have an entry in ``mask`` (entries,), and (rows,) the first of those entries."""
        entries = np.flatnonzero(mask)
        rows, place = np.unique(np.searchsorted(self.offsets, entries, side="right") - 1, return_index=True)
        there, entry = np.zeros(len(self.null), bool), np.zeros(len(self.null), self.values.dtype)
        there[rows], entry[rows] = True, self.values[entries[place]]
        return there, entry


class ParquetTable(ParquetSource):
    """A parquet file's schema and batches.

    Raises:
        DataError: no file, an empty or damaged one, or none of parquet's.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.name = path.name

    def batches(self, names: list[str] | None = None, rows: int = BATCH_ROWS) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yields ``(first row, batch)``.

        Raises:
            DataError: a damaged file.
        """
        row = 0
        # one thread: no batch is decoded ahead, and memory stays that of one
        for batch in self._batches(names, rows, threads=False):
            yield row, batch
            row += batch.num_rows


def scalars(array: pa.Array, dtype: type[np.generic] = np.int64) -> tuple[np.ndarray, np.ndarray]:
    """(n,) values, 0 for nulls, and (n,) bool where the nulls are."""
    values, _, null = decoded(array)
    return values.astype(dtype, copy=False), null


def lists(array: pa.Array, dtype: type[np.generic] = np.int64) -> Lists:
    """The lists of a list column; a null list counts as empty."""
    values, offsets, null = decoded(array)
    return Lists(values.astype(dtype, copy=False), offsets, null)


def matrices(values: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Lists, (n,) bounds, as rows of matrices (≤ n, width), aligned on the right, a few million entries at a time."""
    from qin_zoo.data.histories import gather_lists

    lengths, rows = ends - starts, len(starts)
    width = int(lengths.max(initial=0))
    step = max(1, _MATRIX_ENTRIES // max(width, 1))
    contiguous = rows > 0 and bool((lengths == width).all()) and bool((starts[1:] == ends[:-1]).all())
    for row in range(0, rows, step):
        part = slice(row, min(row + step, rows))
        if contiguous:
            yield part, values[starts[part.start] : ends[part.stop - 1]].reshape(-1, width)
        else:
            yield part, gather_lists(values, starts[part], ends[part], width, dtype=values.dtype)


# Row hashes: 64 bits, so that among four million rows two different ones collide once in a million checks.


def combined(*columns: np.ndarray | pa.Array) -> np.ndarray:
    """(n,) uint64, the hash of rows given column by column."""
    return pl.DataFrame({str(place): column for place, column in enumerate(columns)}).hash_rows().to_numpy()


def matrix_hash(matrix: np.ndarray) -> np.ndarray:
    """(n,) uint64 of the rows of an integer matrix; zeros in front do not change it."""
    drawn = np.random.Generator(np.random.PCG64(20250101)).integers(0, 2**63, matrix.shape[1], dtype=np.uint64)
    weights = (2 * drawn + 1)[::-1]  # a place has the same one in matrices of any width, counted from the end
    return matrix.astype(np.int64, copy=False).view(np.uint64) @ weights
