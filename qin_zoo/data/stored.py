"""Columns on disk: checked against their kinds and written once, in the narrowest dtype, then mapped into memory."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qin_zoo.data import cache
from qin_zoo.data.sources import Chunk, Source, at
from qin_zoo.errors import DataError

Progress = Callable[[str, int, int], None]  # (file name, rows done, rows in all)
_HEADER = 128  # bytes of the header of a one-dimensional .npy file, whatever its length
_BLOCK = 1 << 22  # values copied at a time when an array is widened


@dataclass(frozen=True)
class Kind:
    """One kind of column.

    Attributes:
        listed: whether each row holds a list.
        elements: the element types accepted in the file.
        dtypes: what the values are stored as; the first that holds them all.
        expected: what the column must hold, for messages.
        mend: how to mend a value that it must not hold.
    """

    listed: bool
    elements: tuple[str, ...]
    dtypes: tuple[type[np.generic], ...]
    expected: str
    mend: str


_IDS = "Ids count from 0, and 0 is padding; encode the column again or cast it to an integer type."
_FLOATS = "Write floats, and 0 or the like for NaN and infinite values."
KINDS: dict[str, Kind] = {
    "id": Kind(False, ("int",), (np.uint8, np.uint16, np.int32, np.int64), "a non-negative integer", _IDS),
    "int": Kind(False, ("int",), (np.int32, np.int64), "an integer", "Encode the column as integers."),
    "float": Kind(False, ("int", "float"), (np.float32,), "a finite number", _FLOATS),
    "label": Kind(
        False, ("int", "float", "bool"), (np.uint8,), "a label, 0 or 1", "Labels are clicks: map them to 0 and 1."
    ),
    "response": Kind(False, ("int", "float"), (np.float32,), "a finite number", _FLOATS),
    # A history's zeros are padding and are dropped; those of other lists keep their place.
    "history": Kind(True, ("int",), (np.int32, np.int64), "a list of non-negative integers", _IDS),
    "ids": Kind(True, ("int",), (np.int32, np.int64), "a list of non-negative integers", _IDS),
    "floats": Kind(True, ("int", "float"), (np.float32,), "a list of finite numbers of one length", _FLOATS),
}


def check_values(source: Source, name: str, kind: Kind, row: int, chunk: Chunk) -> tuple[float, float]:
    """The least and the greatest value of a chunk that begins at a row of the file; (0, 0) when there is none.

    Raises:
        DataError: naming the first row that holds a wrong value.
    """
    values = chunk.values
    if values.size == 0:
        return 0, 0
    low, high = values.min().item(), values.max().item()
    if kind.dtypes[-1] is np.float32:
        with np.errstate(over="ignore"):
            good = bool(np.isfinite(np.float32([low, high])).all())
            wrong = None if good else ~np.isfinite(values.astype(np.float32))
    elif kind is KINDS["label"]:
        good = low in (0, 1) and high in (0, 1)
        if good and values.dtype.kind == "f":  # a fraction may lie between
            good = bool(((values == 0) | (values == 1)).all())
        wrong = None if good else (values != 0) & (values != 1)
    else:
        least = -(2**63) if kind is KINDS["int"] else 0
        good = low >= least and high < 2**63
        wrong = None if good else (values < least) | (values > np.uint64(2**63 - 1))
    if wrong is not None:
        first = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"{at(source.path, name, row + chunk.row_of(first))}: expected {kind.expected}, found "
            f"{values[first].item()}. {kind.mend}"
        )
    return low, high


@dataclass(frozen=True)
class Column:
    """One column of a file.

    Attributes:
        path, name, kind: where it comes from, and its kind (a key of ``KINDS``).
        rows: number of rows.
        values: (rows,) for scalars; for lists the entries of all rows end to end.
        offsets: (rows + 1,) int64 into ``values`` where lists differ in length, else None.
        width: the length of every list, where there is one; None for scalars and ragged lists.
        longest: the longest list; 0 for scalars.
        min, max: least and greatest value, 0 when there is none.
    """

    path: Path
    name: str
    kind: str
    rows: int
    values: np.ndarray
    offsets: np.ndarray | None
    width: int | None
    longest: int
    min: float
    max: float
    _file: Path = field(default=Path(), repr=False)
    _map: mmap.mmap | None = field(default=None, repr=False)

    def take(self, rows: np.ndarray | slice) -> np.ndarray:
        """The values of scalar rows, (B,), or of lists of one length, (B, width); a copy in the stored dtype."""
        values = self.values if self.width is None else self.values.reshape(self.rows, self.width)
        return values[rows].copy() if isinstance(rows, slice) else values[rows]

    def bounds(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where in ``values`` the lists of these rows begin and end, two (B,) int64 arrays."""
        if self.offsets is None:
            return rows * self.width, (rows + 1) * self.width
        return self.offsets[rows], self.offsets[rows + 1]

    def check_below(self, size: int, what: str) -> None:
        """Raises DataError naming the first row whose id is not below ``size``; ``what`` tells the limit."""
        if self.max < size:
            return
        position = int(np.argmax(self.values >= size))
        if self.offsets is not None:
            row = int(np.searchsorted(self.offsets, position, side="right")) - 1
        else:
            row = position // (self.width or 1)
        raise DataError(
            f"{at(self.path, self.name, row)}: expected ids below {size}, {what}; found "
            f"{self.values[position].item()} (the greatest id of the column is {self.max})."
        )

    def release(self, start: int, stop: int) -> None:
        """Gives the memory pages of ``values[start:stop]`` back to the system, whose file cache keeps them."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            offset = len(self._map) - self.values.nbytes
            first = (offset + start * self.values.itemsize) // mmap.PAGESIZE * mmap.PAGESIZE
            last = min(offset + stop * self.values.itemsize, len(self._map))
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)

    def prefetch(self) -> None:
        """Has the system read ``values`` into its file cache, in order and many requests at a time.

        Ten times faster than the scattered single reads of a first shuffled epoch, and nothing when they are there
        already. Left out where the file would fill half of the memory, or the system offers no way.
        """
        if (
            self._map is None
            or not hasattr(os, "posix_fadvise")
            or len(self._map) > os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE // 2
        ):
            return
        with contextlib.suppress(OSError), open(self._file, "rb") as file:
            for start in range(0, len(self._map), 4 << 20):  # longer advice is cut to the device's limit
                os.posix_fadvise(file.fileno(), start, 4 << 20, os.POSIX_FADV_WILLNEED)


def blocks(count: int, size: int = 1 << 20) -> Iterator[np.ndarray]:
    """The numbers 0 … ``count`` - 1 in arrays of ``size``, the last one smaller."""
    for first in range(0, count, size):
        yield np.arange(first, min(first + size, count))


def map_array(path: Path) -> tuple[np.ndarray, mmap.mmap | None]:
    """The array (n,) in a .npy file, and the map that it is a view of when it is not empty."""
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if shape[0] == 0:
            return np.empty(0, dtype), None
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(mapping, dtype, shape[0], file.tell()), mapping


class ArrayFile:
    """A one-dimensional .npy file written piece by piece, whose length and dtype are settled at the end.

    Plain writes, not a writable memory map: on a full disk a map kills the process, a write raises OSError.
    """

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self.path, self.dtype, self.size = path, dtype, 0
        self._file = open(path, "wb")
        self._file.write(bytes(_HEADER))  # which is known only at the end

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
        self._file.seek(0)
        about = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.size,)}
        np.lib.format.write_array_header_1_0(self._file, about)
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
        rule, (listed, element) = KINDS[kind], source.element(name)
        if listed != rule.listed or element not in rule.elements:
            raise DataError(
                f"{at(source.path, name)}: expected {rule.expected} in each row, found the type "
                f"{source.type_name(name)}. {rule.mend}"
            )
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
