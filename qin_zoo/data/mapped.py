"""A converted column: an array in a memory map, and what is known of it without reading it."""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qin_zoo.data.sources import at
from qin_zoo.errors import DataError

_BLOCK = 1 << 22  # values looked at together when a row has to be found


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

    def first_above(self, limit: float) -> tuple[int, float] | None:
        """The first row with a value above ``limit``, and that value; None when there is none."""
        if self.max <= limit:
            return None
        for start in range(0, self.values.size, _BLOCK):
            wrong = np.flatnonzero(self.values[start : start + _BLOCK] > limit)
            if wrong.size:
                position = start + int(wrong[0])
                if self.offsets is not None:
                    row = int(np.searchsorted(self.offsets, position, side="right")) - 1
                else:
                    row = position // (self.width or 1)
                return row, self.values[position].item()
        return None

    def check_below(self, size: int, what: str) -> None:
        """Raises DataError naming the first row whose id is not below ``size``; ``what`` tells the limit."""
        if above := self.first_above(size - 1):
            raise DataError(
                f"{at(self.path, self.name, above[0])}: expected ids below {size}, {what}; found "
                f"{above[1]} (the greatest id of the column is {self.max})."
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
        with suppress(OSError), open(self._file, "rb") as file:
            for start in range(0, len(self._map), 4 << 20):  # longer advice is cut to the device's limit
                os.posix_fadvise(file.fileno(), start, 4 << 20, os.POSIX_FADV_WILLNEED)


def map_array(path: Path) -> tuple[np.ndarray, mmap.mmap | None]:
    """The array (n,) in a .npy file, and the map that it is a view of when it is not empty."""
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if shape[0] == 0:
            return np.empty(0, dtype), None
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(mapping, dtype, shape[0], file.tell()), mapping
