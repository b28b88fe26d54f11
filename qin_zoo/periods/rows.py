"""Rows of several files in one, as they are read: what was replayed and the new period's, in the order of time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qin_zoo.data.kinds import KINDS
from qin_zoo.data.loader import ColumnLoader
from qin_zoo.data.mapped import Column
from qin_zoo.files import replace_file

_ROWS = 1 << 16  # written at a time


def write_rows(target: Path, parts: Sequence[tuple[ColumnLoader, np.ndarray]]) -> None:
    """Writes chosen rows of splits of one layout to a parquet file, atomically; their columns, as they are stored.

    Args:
        target: the file.
        parts: loaders with the rows to take from each, in their order, (n,) int64.
    """
    tables = [loader.table for loader, _ in parts]
    types = {
        name: np.result_type(*(table[name].values.dtype for table in tables)).newbyteorder("=")
        for name in tables[-1].columns
    }
    schema = pa.schema([(name, _type(tables[-1][name], dtype)) for name, dtype in types.items()])
    with replace_file(target) as temporary, pq.ParquetWriter(temporary, schema) as file:
        for (loader, rows), table in zip(parts, tables):
            rows = loader.table_rows(rows)
            for first in range(0, len(rows), _ROWS):
                some = rows[first : first + _ROWS]
                arrays = [_array(table[name], some, dtype) for name, dtype in types.items()]
                file.write_batch(pa.record_batch(arrays, schema=schema))


def _type(column: Column, dtype: np.dtype) -> pa.DataType:
    element = pa.from_numpy_dtype(dtype)
    return pa.large_list(element) if KINDS[column.kind].listed else element


def _array(column: Column, rows: np.ndarray, dtype: np.dtype) -> pa.Array:
    if not KINDS[column.kind].listed:
        return pa.array(column.take(rows).astype(dtype, copy=False))
    begin, end = column.bounds(rows)
    ends = np.cumsum(end - begin)
    place = np.arange(ends[-1]) + np.repeat(begin - (ends - (end - begin)), end - begin)
    values = column.values[place].astype(dtype, copy=False)
    return pa.LargeListArray.from_arrays(np.concatenate([[0], ends]), values)
