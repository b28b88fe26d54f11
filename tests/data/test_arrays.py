"""Columns to arrays and back by their buffers: as pyarrow's own conversions, which import pandas, make them."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from qin_zoo.data.item_files import column_array, list_array
from qin_zoo.data.sources import decoded


@pytest.mark.parametrize("dtype", ["i1", "u2", "i8", "u8", "f2", "f4", "f8", "?"])
@pytest.mark.parametrize("part", [slice(None), slice(None, None, -3), slice(0)], ids=["all", "every third", "none"])
def test_arrays_become_columns(dtype, part):
    values = np.arange(20).astype(dtype)[part]
    assert column_array(values).equals(pa.array(values))


def test_of_another_byte_order():
    assert column_array(np.arange(3, dtype=">f4")).to_pylist() == [0, 1, 2]
    assert list_array(np.arange(6, dtype=">i8").reshape(2, 3)).to_pylist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("order", ["C", "F"])
def test_matrices_become_lists(order):
    matrix = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32, order=order)
    assert list_array(matrix).to_pylist() == matrix.tolist()
    assert list_array(matrix[:0]).to_pylist() == []


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.uint64(), pa.float16(), pa.float32(), pa.bool_()], ids=str)
@pytest.mark.parametrize(("first", "length"), [(0, 3), (1, 2), (2, 1), (3, 0)])
def test_columns_become_arrays(kind, first, length):
    column = pa.array(np.array([1, 0, 1]).astype(kind.to_pandas_dtype()), kind).slice(first, length)
    values, offsets, null = decoded(column)
    assert offsets is None
    assert values.tolist() == column.to_pylist()
    assert not null.any()


@pytest.mark.parametrize("make", [pa.list_, pa.large_list])
@pytest.mark.parametrize("rows", [[[1, 2], [], [3], [4, 5, 6]], [["a"], [], ["b", "c"], ["d"]]], ids=["ids", "words"])
@pytest.mark.parametrize(("first", "length"), [(0, 4), (1, 3), (2, 1), (0, 0)])
def test_lists_become_arrays(make, rows, first, length):
    column = pa.array(rows, make(pa.array(rows[0]).type)).slice(first, length)
    values, offsets, _ = decoded(column)
    assert [list(values[begin:end]) for begin, end in pairwise(offsets)] == column.to_pylist()
