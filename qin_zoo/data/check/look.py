"""A quick look at one file: what each column holds, and the first rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from qin_zoo.data.check.tables import ParquetTable, lists
from qin_zoo.data.sources import check_file, hdf5_datasets, readable
from qin_zoo.errors import DataError

SUFFIXES = (".parquet", ".npz", ".npy", ".h5", ".hdf5")
_STEP = 1 << 22


@dataclass
class ColumnStats:
    """One column in numbers; None where it makes no sense.

    Attributes:
        name, type: as the file has them.
        rows, nulls: how many; for lists a null inside counts as well. NaN counts as null.
        low, high, mean: of the values, or of all entries of lists or arrays.
        distinct: number of different values.
        lengths: least and greatest length of lists, or the width of an array's rows.
    """

    name: str
    type: str
    rows: int
    nulls: int = 0
    low: object = None
    high: object = None
    mean: float | None = None
    distinct: int | None = None
    lengths: tuple[int, int] | None = None


def data_files(path: Path) -> list[Path]:
    """``path``, or the data files of a folder.

    Raises:
        DataError: nothing there.
    """
    if not path.is_dir():
        _known(path)
        return [path]
    files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file())
    if not files:
        raise DataError(f"{path}: expected data files in it ({', '.join(SUFFIXES)}), found none. Check the path.")
    return files


def column_stats(path: Path) -> list[ColumnStats]:
    """The statistics of every column or array of a file.

    Raises:
        DataError: no such file, a damaged one, or one of another kind.
    """
    if _known(path) == ".parquet":
        table = ParquetTable(path)
        return [_parquet_column(table, name) for name in table.names]
    with _arrays(path) as arrays:
        return [_array_stats(name, array) for name, array in arrays]


def first_rows(path: Path, n: int = 5) -> tuple[list[str], list[list[object]], int]:
    """Column names, the first ``n`` rows and the number of rows; arrays that are shorter end with None.

    Raises:
        DataError: as :func:`column_stats`.
    """
    if _known(path) == ".parquet":
        table = ParquetTable(path)
        batches = [batch for _, batch in islice(table.batches(rows=max(n, 1)), 1)]
        rows = pa.Table.from_batches(batches).slice(0, n).to_pylist() if batches else []
        return table.names, [list(row.values()) for row in rows], table.num_rows
    columns, longest = {}, 0
    with _arrays(path) as arrays:
        for name, array in arrays:
            if array is None:
                columns[name] = ["(objects, not read)"]
                continue
            values = np.atleast_1d(array[:n] if array.ndim else array[()])
            columns[name] = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values.tolist()]
            longest = max(longest, array.shape[0] if array.ndim else 1)
    return list(columns), [list(row) for row in zip_longest(*columns.values())], longest


def abbreviated(value: object, entries: int = 6) -> str:
    """A value for a table's cell; of a long list the first and last entries."""
    if isinstance(value, (list, tuple)):
        shown = [abbreviated(v, 3) for v in value]
        if len(shown) > entries:
            half = entries // 2
            shown = [*shown[:half], "…", *shown[-half:]]
            return f"[{', '.join(shown)}] ({len(value)})"
        return f"[{', '.join(shown)}]"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _known(path: Path) -> str:
    check_file(path)
    suffix = ".h5" if path.suffix == ".hdf5" else path.suffix
    if suffix in SUFFIXES:
        return suffix
    with open(path, "rb") as file:  # a parquet file by any other name
        if file.read(4) == b"PAR1":
            return ".parquet"
    raise DataError(f"{path}: expected one of {', '.join(SUFFIXES)}, found '{path.suffix or path.name}'. Convert it.")


@contextmanager
def _arrays(path: Path) -> Iterator[Iterator[tuple[str, object]]]:
    """The named arrays of an npy, npz or hdf5 file, one after the other; None for one of Python objects."""
    suffix = _known(path)
    with readable(path, "Write it again; files that need pickle are not read."):
        if suffix == ".npy":
            yield iter([("(array)", np.load(path, mmap_mode="r", allow_pickle=False))])
        elif suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                yield ((name, _member(archive, name)) for name in archive.files)
        else:
            import h5py

            with h5py.File(path, "r") as file:
                yield ((name, file[name]) for name in hdf5_datasets(file))


def _member(archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray | None:
    try:
        return archive[name]
    except ValueError as error:
        if "allow_pickle" in str(error):
            return None
        raise


def _array_stats(name: str, array: object) -> ColumnStats:
    if array is None:
        return ColumnStats(name, "objects, not read", 0)
    kind = f"{array.dtype} {tuple(array.shape)}"
    single, array = not array.shape, array if array.shape else np.atleast_1d(array[()])
    rows, width = array.shape[0], int(np.prod(array.shape[1:]))
    out = ColumnStats(name, kind, rows, lengths=(width, width) if array.ndim > 1 else None)
    if array.dtype.kind in "biuf" and array.size:
        step = max(1, _STEP // width)
        _accumulate(out, (np.asarray(array[i : i + step]) for i in range(0, rows, step)), array.dtype.kind)
    if array.ndim == 1 and not single and array.dtype.kind in "biufSU" and array.size:
        out.distinct = len(np.unique(array[:])) - (1 if out.nulls else 0)
    return out


def _accumulate(out: ColumnStats, parts: object, kind: str) -> None:
    """Adds least, greatest and mean value of arrays."""
    total, count = 0.0, 0
    for part in parts:
        if kind == "f":
            nan = np.isnan(part)
            out.nulls += int(nan.sum())
            part = part[~nan]
        if part.size:
            low, high = part.min().item(), part.max().item()
            out.low = low if out.low is None else min(out.low, low)
            out.high = high if out.high is None else max(out.high, high)
            total += float(part.sum(dtype=np.float64))
            count += part.size
    out.mean = total / count if count else None


def _parquet_column(table: ParquetTable, name: str) -> ColumnStats:
    out = ColumnStats(name, table.type_name(name), table.num_rows)
    listed, element = table.element(name)
    if listed and element in ("int", "float"):
        lengths: list[tuple[int, int]] = []

        def parts() -> Iterator[np.ndarray]:
            for _, batch in table.batches([name]):
                part = lists(batch.column(0), np.int64 if element == "int" else np.float64)
                out.nulls += int(part.null.sum())
                lengths.append((int(part.lengths.min(initial=2**31)), int(part.lengths.max(initial=0))))
                yield part.values

        _accumulate(out, parts(), "f" if element == "float" else "i")
        if lengths:
            out.lengths = (min(a for a, _ in lengths), max(b for _, b in lengths))
        return out
    if listed or pa.types.is_nested(table.schema_arrow.field(name).type):
        return out
    with readable(table.path):
        values = pl.from_arrow(pq.read_table(table.path, columns=[name], pre_buffer=False).column(0))
    values = values.fill_nan(None) if values.dtype.is_float() else values
    out.nulls = values.null_count()
    out.distinct = values.n_unique() - (1 if out.nulls else 0)
    if out.distinct:
        out.low, out.high = values.min(), values.max()
        if values.dtype.is_numeric() or values.dtype == pl.Boolean:
            out.mean = float(values.mean())
    return out
