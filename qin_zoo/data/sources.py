"""Where columns come from: a parquet file or a FuxiCTR npz, read as arrays in chunks of rows.

Both kinds of file answer the same few questions, so whatever converts and checks columns does not know which of the
two it reads.
"""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qin_zoo.errors import DataError, first_line

if TYPE_CHECKING:
    import h5py

# Rows decoded at a time: 16,384 histories of 100 ids are 13 MB, small beside any cache, large beside any call.
CHUNK_ROWS = 16_384
_READ_ERRORS = (
    ValueError, TypeError, KeyError, EOFError, OSError, MemoryError, OverflowError, RuntimeError, zipfile.BadZipFile,
    zlib.error, pa.ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException,
)  # fmt: skip
_NPZ_ERRORS = (ValueError, TypeError, EOFError, OSError, MemoryError, zipfile.BadZipFile, zlib.error)
_NPY_PREFIX = 1 << 17  # more than the header of a .npy file ever takes
# polars would end at a time of +05:30, as pandas writes it; in_utc takes care of such
os.environ.setdefault("POLARS_IGNORE_TIMEZONE_PARSE_ERROR", "1")


class Chunk(NamedTuple):
    """Consecutive rows of one column.

    Attributes:
        values: (n,) one value per row, or the entries of all lists end to end.
        offsets: None, or (rows + 1,) int64: row i's list is ``values[offsets[i]:offsets[i + 1]]``.
    """

    values: np.ndarray
    offsets: np.ndarray | None

    def row_of(self, position: int) -> int:
        """The row, counted within the chunk, that ``values[position]`` belongs to."""
        if self.offsets is None:
            return position
        return int(np.searchsorted(self.offsets, position, side="right")) - 1


def at(path: Path, column: str, row: int | None = None) -> str:
    """The place an error message names; rows count from 0."""
    return f"{path}, column '{column}'" + ("" if row is None else f", row {row}")


def open_source(path: Path) -> Source:
    """Opens ``path`` by its suffix: ``.npz``, anything else as parquet.

    Raises:
        DataError: no such file, a folder, an empty or damaged file, no rows.
    """
    source = NpzSource(path) if path.suffix == ".npz" else ParquetSource(path)
    if source.num_rows == 0:
        raise DataError(f"{path}: expected at least one row, found none: the split is empty. Write it again.")
    return source


def check_file(path: Path) -> None:
    """Raises DataError unless ``path`` is a file with something in it."""
    if path.is_dir():
        raise DataError(
            f"{path}: expected a file, found a folder. Name the file itself; a data set cut into blocks has to be "
            "joined into one file per split."
        )
    if not path.exists():
        raise DataError(f"{path}: no such file. Check the path, relative to the working directory ({Path.cwd()}).")
    if not path.is_file():  # a named pipe or a device, of which nobody knows where it ends
        raise DataError(
            f"{path}: expected a file, found something that is none, such as a named pipe or a device. Write what "
            "comes from there into a file."
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes). Fetch or write it again.")


def ends(path: Path) -> tuple[bytes, bytes]:
    """The first 24 and the last 4 bytes of a file."""
    with open(path, "rb") as file:
        head = file.read(24)
        file.seek(max(0, path.stat().st_size - 4))
        return head, file.read(4)


@contextmanager
def readable(path: Path, mend: str = "Fetch or write it again.") -> Iterator[None]:
    """Raises DataError, which ends with ``mend``, in place of what libraries raise for a file that they cannot read."""
    try:
        yield
    except _READ_ERRORS as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)}). {mend}") from error


def in_utc(schema: pl.Schema) -> list[pl.Expr]:
    """Columns of times with a fixed offset (+05:30), which is no zone for polars, as the same moments in UTC."""
    times = [(name, kind) for name, kind in schema.items() if isinstance(kind, pl.Datetime)]
    offsets = [(name, kind.time_unit) for name, kind in times if (kind.time_zone or "").startswith(("+", "-"))]
    return [pl.col(name).to_physical().cast(pl.Datetime(unit, "UTC")) for name, unit in offsets]


def require_exact(where: str, values: np.ndarray) -> None:
    """Raises DataError for the first of floating point ids that is too great to be told from its neighbours."""
    if values.dtype.kind == "f":
        great = np.abs(values) >= 2 ** (np.finfo(values.dtype).nmant + 1)
        if (lost := values[great & np.isfinite(values)]).size:
            raise digits_lost(where, lost[0])


def digits_lost(where: str, found: object) -> DataError:
    """The error for an id, or a word, that a floating point number has not held."""
    return DataError(
        f"{where}: '{found}' has been a floating point number, which cannot hold so many digits: others have become "
        "the same. Write the file again from whole numbers or text."
    )


def each_once(path: Path, names: Iterable[str]) -> list[str]:
    """The columns' names; raises DataError where two have the same: nobody knows which is meant."""
    names = list(names)
    if again := [name for n, name in enumerate(names) if name in names[:n]]:
        raise DataError(
            f"{path}: expected columns of different names, found '{again[0]}' {names.count(again[0])} times. Rename or "
            "drop all but one of them."
        )
    return names


def hdf5_datasets(file: h5py.File) -> list[str]:
    """The names of an open file's datasets, those within groups, too."""
    names: list[str] = []
    # returning anything but None would end the visit
    file.visititems(lambda name, node: names.append(name) if hasattr(node, "shape") else None)
    return names


class ParquetSource:
    """A parquet file, decoded a few thousand rows at a time: named columns with equally many rows.

    Attributes:
        path, names, num_rows: the file, its columns, its rows.
    """

    def __init__(self, path: Path) -> None:
        check_file(path)
        self.path = path
        try:
            # pre_buffer would keep every row group read so far in memory: the whole file by the end.
            self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, error) from None
        self.schema_arrow = self._file.schema_arrow
        self.names = each_once(path, self.schema_arrow.names)
        self.num_rows = self._file.metadata.num_rows

    def type_name(self, name: str) -> str:
        """The column's type in the file's own words, for messages."""
        return str(self.schema_arrow.field(name).type)

    def element(self, name: str) -> tuple[bool, str]:
        """Whether the column holds lists, and of what: ``"int"``, ``"float"``, ``"bool"`` or ``"other"``."""
        kind = self.schema_arrow.field(name).type
        listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        if listed:
            kind = kind.value_type
        if pa.types.is_integer(kind) or (listed and pa.types.is_null(kind)):  # list<null>: every list is empty
            return listed, "int"
        if pa.types.is_floating(kind):
            return listed, "float"
        return listed, "bool" if pa.types.is_boolean(kind) else "other"

    def chunks(self, names: Iterable[str]) -> Iterator[tuple[str, int, Chunk]]:
        """Yields ``(column, its first row, chunk)``; a column's chunks come in the order of its rows."""
        names, row = list(names), 0
        for batch in self._batches(names):
            for name in names:
                yield name, row, self._chunk(name, row, batch.column(batch.schema.get_field_index(name)))
            row += batch.num_rows

    def is_placeholder(self, name: str) -> bool:
        """Whether a label column says nothing: null throughout, or one value other than 0 and 1."""
        kind = self.schema_arrow.field(name).type
        if not (pa.types.is_primitive(kind) or pa.types.is_null(kind)):
            return False
        seen: set[object] = set()
        for batch in self._batches([name]):
            column = batch.column(0)
            if column.null_count:
                seen.add(None)
            if column.null_count < len(column):
                seen.update(None if v != v else v for v in pc.min_max(column).as_py().values())  # NaN is no value
            if len(seen) > 1:  # a true label column ends the search at its first chunk
                return False
        return seen.isdisjoint({0, 1})

    def _batches(
        self, names: Sequence[str] | None, rows: int | None = None, threads: bool = True
    ) -> Iterator[pa.RecordBatch]:
        row = 0
        try:
            for batch in self._file.iter_batches(rows or CHUNK_ROWS, columns=names, use_threads=threads):
                yield batch
                row += batch.num_rows
            pa.default_memory_pool().release_unused()  # decoding is over; training wants the memory
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{self.path}: damaged after row {row} in column(s) {', '.join(names or self.names)}: {error}. "
                "Fetch or write the file again."
            ) from None

    def _chunk(self, name: str, row: int, array: pa.Array) -> Chunk:
        values, offsets, null = decoded(array)
        if null.any():
            first = int(np.argmax(null))
            raise self._null(name, row + first, " inside the list" if array[first].is_valid else "")
        return Chunk(values, offsets)

    def _null(self, name: str, row: int, where: str = "") -> DataError:
        return DataError(
            f"{at(self.path, name, row)}: expected a value, found a null{where}. Fill the nulls "
            "(ids: 0, histories: an empty list, embeddings: zeros) and write the file again."
        )


def decoded(array: pa.Array) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """A column's values, or the entries of its lists end to end, 0 for nulls; the offsets; and where there is a null.

    Offsets are (rows + 1,) int64, as of :class:`Chunk`; ``null`` is (rows,) bool, for an entry of a list, too.
    """
    null, kind, offsets = np.zeros(len(array), bool), array.type, None
    if array.null_count:
        null = array.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        if array.null_count or pa.types.is_fixed_size_list(kind):
            lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
            offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        else:
            offsets = _values(array.offsets).astype(np.int64)
            offsets -= offsets[0]
        array = array.flatten()  # leaves out what stands under null lists
        if array.null_count:
            inside = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))
            null[np.searchsorted(offsets, inside, side="right") - 1] = True
    if pa.types.is_null(array.type):
        array = array.cast(pa.int64())
    if array.null_count and (pa.types.is_boolean(array.type) or _is_number(array.type)):
        array = array.fill_null(False if pa.types.is_boolean(array.type) else 0)
    return _values(array) if len(array) else np.empty(0, np.int64), offsets, null


def _values(array: pa.Array) -> np.ndarray:
    """A column without nulls, of the same memory where it holds numbers: ``to_numpy`` would import pandas first."""
    buffer = array.buffers()[-1]
    if not _is_number(array.type) or buffer is None or not buffer.size:
        return array.to_numpy(zero_copy_only=False)
    return np.frombuffer(buffer, array.type.to_pandas_dtype())[array.offset : array.offset + len(array)]


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


class NpzSource:
    """An npz archive of arrays (N,) or (N, width), as FuxiCTR writes its encoded data; as :class:`ParquetSource`."""

    def __init__(self, path: Path) -> None:
        check_file(path)
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                members = [m for m in each_once(path, archive.namelist()) if m.endswith(".npy")]
                headers = {m[:-4]: _npy_header(archive, m) for m in members}
        except _NPZ_ERRORS as error:
            raise DataError(
                f"{path}: expected an npz archive of arrays, found something else or a damaged file "
                f"({error}). Write it again with numpy.savez."
            ) from None
        self._headers = {name: h for name, h in headers.items() if len(h[0]) > 0}
        self.names = list(self._headers)
        self.num_rows = next((shape[0] for shape, _ in self._headers.values()), 0)

    def type_name(self, name: str) -> str:
        shape, dtype = self._headers[name]
        return f"{dtype} {shape}"

    def element(self, name: str) -> tuple[bool, str]:
        shape, dtype = self._headers[name]
        element = {"i": "int", "u": "int", "f": "float", "b": "bool"}.get(dtype.kind, "other")
        return len(shape) > 1, element if len(shape) < 3 else "other"

    def chunks(self, names: Iterable[str]) -> Iterator[tuple[str, int, Chunk]]:
        for name in names:
            array = self._array(name)
            for row in range(0, len(array), CHUNK_ROWS):
                part = array[row : row + CHUNK_ROWS]
                width = part.shape[1] if part.ndim == 2 else 1
                ends = None if part.ndim == 1 else np.arange(len(part) + 1, dtype=np.int64) * width
                yield name, row, Chunk(part.reshape(-1), ends)

    def is_placeholder(self, name: str) -> bool:
        values = np.unique(self._array(name))  # NaN counts as one value
        return len(values) == 1 and values[0] not in (0, 1)

    def _array(self, name: str) -> np.ndarray:
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                array = archive[name]
        except _NPZ_ERRORS as error:
            raise DataError(f"{self.path}, array '{name}': cannot be read ({error}). Write it again.") from None
        if len(array) != self.num_rows:
            raise DataError(
                f"{self.path}, array '{name}': expected {self.num_rows} rows like the array "
                f"'{self.names[0]}', found {len(array)}. Write the arrays of one split together."
            )
        return array


Source = ParquetSource | NpzSource


def _npy_header(archive: zipfile.ZipFile, member: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of a member, without unpacking it."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    size, held = math.prod(shape) * dtype.itemsize, archive.getinfo(member).file_size
    if min(shape, default=0) < 0 or (not dtype.hasobject and not size <= held < size + _NPY_PREFIX):
        raise ValueError(f"{member} is said to be of the shape {shape}, but has {held} bytes")
    return shape, dtype


def _unreadable(path: Path, error: Exception) -> DataError:
    if isinstance(error, PermissionError):
        return DataError(f"{path}: no permission to read it. Change its permissions (chmod u+r).")
    head, tail = ends(path)
    if not head.startswith(b"PAR1"):
        return DataError(
            f"{path}: expected a parquet file, found one that starts with {head[:4]!r}. Convert it to "
            "parquet (polars: pl.read_csv(...).write_parquet(...)) or correct the path."
        )
    if tail != b"PAR1":
        return DataError(f"{path}: truncated: a parquet file whose end is missing. Fetch or write it again.")
    return DataError(f"{path}: damaged parquet file ({error}). Fetch or write it again.")
