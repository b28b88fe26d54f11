"""Vectors that already lie in a file: parquet, npy or HDF5."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from qin_zoo.data.sources import Chunk, ParquetSource, at, check_file, hdf5_datasets, readable
from qin_zoo.embed.items import Inputs, check_ids
from qin_zoo.errors import DataError, suggest
from qin_zoo.files import file_digest


class Precomputed:
    """Vectors of a file, as they are.

    parquet: ``item_id`` and a column of equally long lists. npy and HDF5: a table (N, D) whose row i is item i, row 0
    padding.

    Args:
        argument: ``FILE``, or ``FILE:COLUMN`` (HDF5: the dataset's name); without one, the only column of vectors.
    """

    modality = "vector"

    def __init__(self, argument: str = "", modality: str = "vector") -> None:
        self._path, self._column = _split(argument)
        if self._path.suffix in (".h5", ".hdf5"):
            with readable(self._path):
                file = h5py.File(self._path, "r")
                tables = hdf5_datasets(file)
            self._column = _choose(self._path, self._column, tables)
            self._table: Any = file[self._column]
        elif self._path.suffix == ".npy":
            if self._column:
                raise DataError(f"{self._path}: an npy file has no columns, found ':{self._column}'. Leave it out.")
            with readable(self._path, "Write it again with numpy.save."):
                self._table = np.load(self._path, mmap_mode="r", allow_pickle=False)
        else:
            self._table = None  # read by fit, which knows the number of items
            self._column, self.dim = self._parquet_column()
        if self._table is not None:
            if self._table.ndim != 2 or self._table.dtype.kind not in "fiu" or 0 in self._table.shape:
                raise DataError(
                    f"{self._path}: expected a table (items, numbers), found {self._table.dtype} of shape "
                    f"{self._table.shape}. Write row i for item i."
                )
            self.dim = self._table.shape[1]
        self.name = f"precomputed:{self._path.name}" + (f":{self._column}" if self._column else "")
        self.version = "1"

    def inputs(self, num_items: int) -> Inputs:
        """The rows of this file as inputs of ``num_items`` items."""
        return _RowInputs(self._path, num_items)

    def fit(self, inputs: Inputs) -> None:
        """Finds the vectors of the items; of a parquet file they are first laid out in a temporary file.

        Raises:
            DataError: rows, ids or lengths that do not fit the items.
        """
        if self._table is None:
            self._table = self._lay_out(len(inputs))
        elif len(self._table) != len(inputs):
            missing = " The padding row 0 is missing: put a row of zeros first." * (len(self._table) == len(inputs) - 1)
            raise DataError(
                f"{self._path}: expected {len(inputs):,} rows, row i for item i of the item table, found "
                f"{len(self._table):,}.{missing or ' Take the file that belongs to this dataset.'}"
            )

    def encode(self, batch: Sequence[int]) -> np.ndarray:
        """The vectors (B, D) of ids that follow each other; DataError where the file is damaged."""
        start, stop = int(batch[0]), int(batch[-1]) + 1  # every id between: see _RowInputs
        with readable(self._path, f"It is damaged near row {start}: write it again."):
            return np.asarray(self._table[start:stop], np.float32)

    def _parquet_column(self) -> tuple[str, int]:
        source = ParquetSource(self._path)
        if "item_id" not in source.names:
            raise DataError(f"{self._path}: expected a column 'item_id', found {', '.join(source.names)}. Rename it.")
        vectors = [name for name in source.names if source.element(name) == (True, "float")]
        column = _choose(self._path, self._column, vectors)
        for _, row, chunk in source.chunks([column]):
            return column, _width(self._path, column, row, chunk)
        raise DataError(f"{self._path}: expected at least one row, found none. Write it again.")

    def _lay_out(self, num_items: int) -> np.ndarray:
        with tempfile.TemporaryFile(dir=self._path.parent if os.access(self._path.parent, os.W_OK) else None) as file:
            table = np.memmap(file, np.float32, "w+", shape=(num_items, self.dim))  # zeros where nothing is written
        seen: list[np.ndarray] = []
        for name, row, chunk in ParquetSource(self._path).chunks(["item_id", self._column]):
            if name == "item_id":
                if chunk.offsets is not None or chunk.values.dtype.kind not in "iu":
                    raise DataError(f"{at(self._path, name)}: expected whole numbers, found {chunk.values.dtype}.")
                seen.append(chunk.values.astype(np.int64))
                check_ids(self._path, seen[-1], num_items)
                continue
            width = _width(self._path, name, row, chunk)
            if width != self.dim:
                raise DataError(f"{at(self._path, name, row)}: expected {self.dim} numbers, found {width}.")
            table[seen[-1]] = chunk.values.reshape(-1, width)
        check_ids(self._path, np.concatenate(seen), num_items)
        return table


class _RowInputs:
    """Every item but the padding, its id as input."""

    modality = "vector"

    def __init__(self, path: Path, num_items: int) -> None:
        self._path, self._num_items = path, num_items

    @property
    def fingerprint(self) -> str:
        return file_digest(self._path, hashlib.sha256(f"rows {self._num_items}".encode()))

    def __len__(self) -> int:
        return self._num_items

    def batch(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        ids = np.arange(max(start, 1), stop)
        return ids, ids


def _split(argument: str) -> tuple[Path, str]:
    """FILE and COLUMN; a ':' may be part of the path."""
    path = Path(argument)
    column = ""
    if not path.exists() and ":" in argument:
        file, _, column = argument.rpartition(":")
        path = Path(file)
    if not argument:
        raise DataError("Encoder precomputed: expected a file: precomputed:item_feature.parquet:img_emb_CLIPRN50.")
    check_file(path)
    if path.suffix not in (".parquet", ".npy", ".h5", ".hdf5"):
        raise DataError(f"{path}: expected a .parquet, .npy, .h5 or .hdf5 file, found '{path.suffix}'. Convert it.")
    return path, column


def _choose(path: Path, column: str, known: list[str]) -> str:
    if column in known:
        return column
    if not column and len(known) == 1:
        return known[0]
    found = f"{', '.join(known) or 'none'}"
    raise DataError(
        f"{path}: expected {f'vectors called {column!r}' if column else 'one column of vectors'}, found {found}."
        f"{suggest(column, known) if column else ''} Name it: precomputed:{path}:COLUMN."
    )


def _width(path: Path, column: str, row: int, chunk: Chunk) -> int:
    """The length that all lists of a chunk have."""
    lengths = np.diff(chunk.offsets)
    odd = np.flatnonzero(lengths != lengths[0])
    if odd.size or lengths[0] == 0:
        position = int(odd[0]) if odd.size else 0
        raise DataError(
            f"{at(path, column, row + position)}: expected a vector of {lengths[0] or 'some'} numbers, found "
            f"{lengths[position]}. Make all vectors equally long, or drop the row."
        )
    return int(lengths[0])
