"""Item tables in and out of files: a new table beside the old one, whole or not at all, and a report about it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qin_zoo.data.sources import at, open_source
from qin_zoo.errors import DataError
from qin_zoo.files import discard_leftovers, replace_file, replace_text

ITEM_FILE = "item_info.parquet"


def column_array(values: np.ndarray) -> pa.Array:
    """An array (N,) as a column."""
    if values.dtype.kind not in "iuf":
        return pa.array(values)  # which imports pandas first, half a second
    values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), values.size, [None, pa.py_buffer(values)])


def table_of(columns: Mapping[str, np.ndarray]) -> pa.Table:
    """Named arrays (N,), and matrices (N, D) as columns of lists."""
    return pa.table({name: column_array(v) if v.ndim == 1 else list_array(v) for name, v in columns.items()})


def list_array(matrix: np.ndarray) -> pa.ListArray:
    """The rows of a matrix (N, D) as a column of lists."""
    offsets = np.arange(0, matrix.size + 1, matrix.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(column_array(offsets), column_array(matrix.reshape(-1)))


def in_folder(folder: str | Path, file: str | Path) -> Path:
    """``file``, which lies in ``folder`` if it is a bare name; DataError where there is no such folder."""
    folder, file = Path(folder), Path(file)
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a dataset's folder (train.parquet, item_info.parquet), found none.")
    return folder / file if file.parent == Path() else file


def index_column(info: Path) -> str:
    """The column that numbers the items of a table."""
    return "item_index" if "item_index" in open_source(info).names else "item_id"


def check_output(info: Path, output: Path, names: Iterable[str], force: bool) -> None:
    """Raises DataError where ``output``, or one of the columns to add, exists already and ``force`` is not given."""
    present = [name for name in names if name in open_source(info).names]
    if force:
        return
    if output.exists():
        raise DataError(f"{output}: the file exists. Choose another output, or replace it with --force.")
    if present:
        raise DataError(
            f"{at(info, present[0])}: the column exists. Name another item table, or replace it with --force."
        )


def write_columns(info: Path, output: Path, columns: Mapping[str, pa.Array]) -> None:
    """Writes the table ``info`` with ``columns`` added, or replaced where it has them."""
    table = pq.read_table(info)
    for name, values in columns.items():
        if name in table.column_names:
            table = table.drop_columns([name])
        table = table.append_column(name, values)
    discard_leftovers(output.parent)
    with replace_file(output) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def write_report(output: Path, report: Mapping[str, object]) -> Path:
    """Writes the report beside the table it is about; returns its path."""
    path = output.with_suffix(".json")
    replace_text(path, json.dumps(report, indent=2) + "\n")
    return path
