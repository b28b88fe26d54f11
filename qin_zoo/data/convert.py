"""From a file's columns to arrays on disk: checked, in the narrowest dtype that holds them, in one pass."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from qin_zoo.data import cache
from qin_zoo.data.kinds import KINDS, Kind, check_type, check_values
from qin_zoo.data.sources import Chunk, Source, at
from qin_zoo.errors import DataError

Progress = Callable[[str, int, int], None]  # (file name, rows done, rows in all)
_HEADER = 128  # bytes kept free for the .npy header, which is known only at the end
_BLOCK = 1 << 22  # values copied at a time when an array is widened


class ArrayFile:
    """A one-dimensional .npy file written piece by piece, whose length and dtype are settled at the end.

    Plain writes, not a writable memory map: on a full disk a map kills the process, a write raises OSError.
    """

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self.path, self.dtype, self.size = path, dtype, 0
        self._file = open(path, "wb")
        self._file.write(bytes(_HEADER))

    def append(self, values: np.ndarray) -> None:
        """Writes (n,) values behind those that are there."""
        if values.size:
            write(self._file, np.ascontiguousarray(values, self.dtype))
            self.size += values.size

    def widen(self, dtype: np.dtype) -> None:
        """Rewrites what is there in a wider dtype."""
        narrow, self.dtype = self.dtype, dtype
        self._file.close()
        old = self.path.rename(self.path.with_suffix(".narrow"))
        self._file = open(self.path, "wb")
        self._file.write(bytes(_HEADER))
        with open(old, "rb") as file:
            file.seek(_HEADER)
            while (block := np.fromfile(file, narrow, _BLOCK)).size:
                write(self._file, block.astype(self.dtype))
        old.unlink()

    def finish(self) -> None:
        """Writes the header, which says how many values there are, and closes the file."""
        text = repr({"descr": self.dtype.str, "fortran_order": False, "shape": (self.size,)})
        start = b"\x93NUMPY\x01\x00" + struct.pack("<H", _HEADER - 10)
        self._file.seek(0)
        self._file.write(start + text.encode().ljust(_HEADER - 11) + b"\n")
        self._file.close()

    def close(self) -> None:
        """Closes an unfinished file; nobody can read it."""
        with contextlib.suppress(OSError):  # what is left in its buffer is thrown away anyway
            self._file.close()


def write(file: object, values: np.ndarray) -> None:
    """The one place where columns, (n,) values, reach the disk."""
    file.write(values.data)


class ColumnWriter:
    """Writes one column into a folder: ``values.npy``, ``offsets.npy`` if lists differ in length, ``column.json``.

    Args:
        folder: created here.
        source: the file the column comes from.
        name: the column.
        kind: its kind, a key of ``KINDS``.
    """

    def __init__(self, folder: Path, source: Source, name: str, kind: str) -> None:
        folder.mkdir()
        self._folder, self._source, self._name, self._kind = folder, source, name, kind
        self._rule: Kind = KINDS[kind]
        self._values = ArrayFile(folder / "values.npy", np.dtype(self._rule.dtypes[0]))
        self._offsets = ArrayFile(folder / "offsets.npy", np.dtype(np.int64)) if self._rule.listed else None
        if self._offsets is not None:
            self._offsets.append(np.zeros(1, np.int64))
        self._rows, self._low, self._high = 0, np.inf, -np.inf
        self._longest, self._shortest = 0, 2**62

    def append(self, row: int, chunk: Chunk) -> None:
        """Checks and writes the next chunk, which starts at ``row``."""
        low, high = check_values(self._source, self._name, self._rule, row, chunk)
        if self._kind == "history" and low == 0:
            chunk = _without_padding(chunk)
        if chunk.values.size:
            self._low, self._high = min(self._low, low), max(self._high, high)
            if not _holds(self._values.dtype, low, high):
                wider = (np.dtype(d) for d in self._rule.dtypes)
                self._values.widen(next(d for d in wider if _holds(d, self._low, self._high)))
        if chunk.offsets is None:
            self._rows += chunk.values.size
        else:
            self._append_lengths(row, chunk.offsets)
        self._values.append(chunk.values)

    def _append_lengths(self, row: int, offsets: np.ndarray) -> None:
        lengths = np.diff(offsets)
        self._rows += lengths.size
        if lengths.size:
            self._longest = max(self._longest, int(lengths.max()))
            self._shortest = min(self._shortest, int(lengths.min()))
        if self._kind == "floats" and (self._shortest != self._longest or self._longest == 0):
            width = int(lengths[0]) if row == 0 else self._values.size // row
            odd = int(np.flatnonzero((lengths != width) | (lengths == 0))[0])
            raise DataError(
                f"{at(self._source.path, self._name, row + odd)}: expected {self._rule.expected} "
                f"({width}, as in row 0), found {lengths[odd]}. Every vector needs the same length."
            )
        self._offsets.append(offsets[1:] + self._values.size)

    def finish(self) -> None:
        """Completes the folder.

        Raises:
            DataError: the file ended before all of its rows were read.
        """
        if self._rows != self._source.num_rows:
            raise DataError(
                f"{at(self._source.path, self._name)}: expected {self._source.num_rows} rows, found "
                f"{self._rows}: the file is damaged. Fetch or write it again."
            )
        self._values.finish()
        width = None
        if self._offsets is not None:
            self._offsets.finish()
            if self._shortest == self._longest:
                width = self._longest
                self._offsets.path.unlink()
        any_values = bool(self._values.size)
        about = {
            "kind": self._kind,
            "dtype": self._values.dtype.str,
            "rows": self._rows,
            "width": width,
            "entries": self._values.size,
            "longest": self._longest,
            "min": self._low if any_values else 0,
            "max": self._high if any_values else 0,
            "files": {file.name: cache.stamp(file) for file in self._folder.iterdir()},
        }
        (self._folder / "column.json").write_text(json.dumps(about))

    def close(self) -> None:
        """Closes the files of an unfinished column."""
        self._values.close()
        if self._offsets is not None:
            self._offsets.close()


def convert(source: Source, columns: Mapping[str, tuple[str, Path]], progress: Progress | None = None) -> None:
    """Checks columns and writes each into its folder, in one pass over the file.

    Args:
        columns: name -> (kind, folder to create).
        progress: called with (file name, rows done, rows in all).

    Raises:
        DataError: naming file, column and first row of what cannot be used.
    """
    if not columns:
        return
    for name, (kind, _) in columns.items():
        check_type(source, name, KINDS[kind])
    writers: dict[str, ColumnWriter] = {}
    try:
        for name, (kind, folder) in columns.items():
            writers[name] = ColumnWriter(folder, source, name, kind)
        last = next(reversed(writers))
        for name, row, chunk in source.chunks(writers):
            writers[name].append(row, chunk)
            if progress is not None and name == last:
                rows = chunk.values.size if chunk.offsets is None else chunk.offsets.size - 1
                progress(source.path.name, row + rows, source.num_rows)
        for writer in writers.values():
            writer.finish()
    finally:
        for writer in writers.values():
            writer.close()


def _without_padding(chunk: Chunk) -> Chunk:
    """The chunk with its zeros taken out of the lists."""
    real = chunk.values != 0
    kept_before = np.zeros(real.size + 1, np.int64)
    np.cumsum(real, out=kept_before[1:])
    return Chunk(chunk.values[real], kept_before[chunk.offsets])


def _holds(dtype: np.dtype, low: float, high: float) -> bool:
    return dtype.kind == "f" or (np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max)
