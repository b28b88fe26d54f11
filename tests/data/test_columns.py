import datetime
import decimal
import logging
import os
import warnings
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_path_files import write

from qin_zoo.data import sources
from qin_zoo.data.columns import open_table
from qin_zoo.errors import DataError


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 4 rows, so that a few rows cross many chunk borders."""
    monkeypatch.setattr(sources, "CHUNK_ROWS", 4)


def lists(column):
    starts, ends = column.bounds(np.arange(column.rows))
    return [column.values[s:e].tolist() for s, e in zip(starts, ends)]


def test_scalars_come_back(tmp_path, small_chunks):
    rng = np.random.default_rng(0)
    data = {
        "a": rng.integers(0, 255, 30),
        "b": rng.integers(-5, 5, 30),
        "x": rng.standard_normal(30),
        "label": rng.integers(0, 2, 30).astype(bool),
    }
    path = write(tmp_path / "train.parquet", data, row_group_size=7)
    table = open_table(path, {"a": "id", "b": "int", "x": "float", "label": "label"})
    assert table.num_rows == 30
    assert table.has_label
    for name, dtype in {"a": np.uint8, "b": np.int32, "x": np.float32, "label": np.uint8}.items():
        assert table[name].values.dtype == dtype
        np.testing.assert_array_equal(table[name].values, data[name].astype(dtype))
        assert table[name].min == pytest.approx(data[name].min())
        assert table[name].max == pytest.approx(data[name].max())
    rows = np.array([29, 0, 4, 4])
    np.testing.assert_array_equal(table["a"].take(rows), data["a"][rows])


@pytest.mark.parametrize(
    ("greatest", "dtype"),
    [(255, np.uint8), (256, np.uint16), (65_536, np.int32), (2**31, np.int64), (2**63 - 1, np.int64)],
)
def test_ids_take_the_narrowest_dtype_even_when_the_greatest_comes_last(tmp_path, small_chunks, greatest, dtype):
    data = np.arange(21, dtype=np.uint64)
    data[-1] = greatest
    table = open_table(write(tmp_path / "t.parquet", {"a": data}), {"a": "id"})
    assert table["a"].values.dtype == dtype
    np.testing.assert_array_equal(table["a"].values, data)
    assert table["a"].max == greatest


@pytest.mark.parametrize("wide", [2**31, -(2**31) - 1])
def test_integers_widen_at_both_ends(tmp_path, small_chunks, wide):
    data = [1, -2, 3, 4, 5, wide]
    table = open_table(write(tmp_path / "t.parquet", {"a": data}), {"a": "int"})
    assert table["a"].values.tolist() == data


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.large_list(pa.int32()), pa.list_(pa.uint16())])
def test_ragged_lists(tmp_path, small_chunks, kind):
    data = [[], [3], [1, 2, 3], [0, 7], [9] * 20, [], [5, 0, 6], [], [1]]
    path = write(tmp_path / "t.parquet", {"h": pa.array(data, kind)}, row_group_size=5)
    column = open_table(path, {"h": "ids"})["h"]
    assert lists(column) == data
    assert (column.longest, column.width, column.max, column.min) == (20, None, 9, 0)
    history = open_table(path, {"h": "history"})["h"]
    assert lists(history) == [[i for i in row if i] for row in data]  # zeros are padding wherever they stand
    assert history.longest == 20


def test_lists_of_one_length_need_no_offsets(tmp_path, small_chunks):
    data = np.arange(1, 31).reshape(10, 3)
    for kind in (pa.list_(pa.int64()), pa.list_(pa.int64(), 3)):
        path = write(
            tmp_path / f"{kind.num_fields}{kind}.parquet".replace(" ", ""), {"h": pa.array(data.tolist(), kind)}
        )
        for column_kind in ("ids", "history"):
            column = open_table(path, {"h": column_kind})["h"]
            assert (column.width, column.offsets) == (3, None)
            np.testing.assert_array_equal(column.take(np.array([9, 2])), data[[9, 2]])
            assert lists(column) == data.tolist()


def test_lists_without_any_entry(tmp_path):
    path = write(tmp_path / "t.parquet", {"h": pa.array([[], []], pa.list_(pa.null())), "z": [[0, 0], [0]]})
    table = open_table(path, {"h": "history", "z": "history"})
    assert lists(table["h"]) == lists(table["z"]) == [[], []]
    assert (table["h"].longest, table["z"].longest, table["z"].max) == (0, 0, 0)


def test_sliced_and_row_grouped_lists_keep_their_rows(tmp_path):
    data = [[i] * (i % 4) for i in range(1, 100)]
    source = pa.table({"h": data}).slice(13, 50)
    pq.write_table(source, tmp_path / "t.parquet", row_group_size=6)
    assert lists(open_table(tmp_path / "t.parquet", {"h": "ids"})["h"]) == data[13:63]


def test_a_slice_of_a_longer_array(tmp_path):
    """Arrow may hand out a batch whose lists begin in the middle of its values."""
    path = write(tmp_path / "t.parquet", {"h": [[1]]})
    for kind in (pa.list_(pa.int64()), pa.list_(pa.int64(), 2)):
        part = pa.array([[1, 2], [3, 4], [5, 6]], kind).slice(1)
        chunk = sources.ParquetSource(path)._chunk("h", 0, part)
        assert (chunk.values.tolist(), chunk.offsets.tolist()) == ([3, 4, 5, 6], [0, 2, 4])


def test_npz_columns(tmp_path, small_chunks):
    rng = np.random.default_rng(0)
    ids, seq, label = rng.integers(0, 300, 11), rng.integers(0, 9, (11, 5), np.int32), rng.integers(0, 2, 11) * 1.0
    np.savez_compressed(tmp_path / "t.npz", ids=ids, seq=seq, label=label, text=np.array(["x"] * 11))
    table = open_table(tmp_path / "t.npz", {"ids": "id", "seq": "ids", "label": "label"})
    np.testing.assert_array_equal(table["ids"].values, ids)
    np.testing.assert_array_equal(table["seq"].take(slice(None)), seq)
    np.testing.assert_array_equal(table["label"].values, label)


def test_odd_column_names(tmp_path):
    path = write(tmp_path / "t.parquet", {"a/b. c": [1, 2], "..": [3, 4]})
    table = open_table(path, {"a/b. c": "id", "..": "id"})
    assert table["a/b. c"].values.tolist() == [1, 2]
    assert table[".."].values.tolist() == [3, 4]


def test_progress_is_told(tmp_path, small_chunks):
    seen = []
    path = write(tmp_path / "t.parquet", {"a": list(range(10)), "h": [[1]] * 10})
    open_table(path, {"a": "id", "h": "history"}, progress=lambda *call: seen.append(call))
    assert seen == [("t.parquet", 4, 10), ("t.parquet", 8, 10), ("t.parquet", 10, 10)]


# -- what is refused -------------------------------------------------------------------------------------------------


def refused(path, columns, *words, **options):
    with pytest.raises(DataError) as error:
        open_table(path, columns, **options)
    message = str(error.value)
    assert str(path) in message
    for word in words:
        assert word in message, message
    root = path.parent / ".qin_zoo_cache"
    assert not root.exists() or not list(root.iterdir()), "a refused file left something in the cache"
    return message


BAD_VALUES = [
    ("id", [1, 2, 3, 4, 5, -3, -4], ["row 5", "non-negative integer", "found -3"]),
    ("id", pa.array([1, 2**63 + 1], pa.uint64()), ["row 1", str(2**63 + 1)]),
    ("id", [1, 2, 3, 4, None, 6], ["row 4", "null"]),
    ("id", ["a", "b"], ["string", "integer"]),
    ("id", [1.0, 2.0], ["double", "integer"]),
    ("id", [True, False], ["bool", "integer"]),
    ("id", [[1], [2]], ["list", "integer"]),
    ("int", [0.5, 1.0], ["double", "an integer"]),
    ("float", [0.0, 1.0, 2.0, 3.0, 4.0, float("nan")], ["row 5", "finite", "nan"]),
    ("float", [0.0, float("-inf")], ["row 1", "-inf"]),
    ("float", [0.0, 1e300], ["row 1", "1e+300"]),
    ("float", ["0.5"], ["string"]),
    ("label", [0, 1, 0, 1, 0, 0, 2], ["row 6", "0 or 1", "found 2"]),
    ("label", [0, -1], ["row 1", "found -1"]),
    ("label", [0.0, 1.0, 0.5], ["row 2", "found 0.5"]),
    ("label", [0.0, float("nan")], ["row 1", "nan"]),
    ("label", [0, 1, None], ["row 2", "null"]),
    ("label", ["yes"], ["string"]),
    ("history", [[1], [2], [3], [4], [5], [6, -2]], ["row 5", "found -2"]),
    ("history", [[1], None], ["row 1", "null"]),
    ("history", [[1], [2], [], [3], [], [2, None]], ["row 5", "null inside the list"]),
    ("history", [[1.5], [2.0]], ["double", "list of non-negative integers"]),
    ("history", [[[1]], [[2]]], ["list", "list of non-negative integers"]),
    ("history", [["a"]], ["string"]),
    ("history", [1, 2], ["int64", "list of non-negative integers"]),
    ("ids", [[], [], [0], [], [], [-1]], ["row 5", "found -1"]),
    ("floats", [[0.0, 1.0]] * 5 + [[0.0, float("nan")]], ["row 5", "nan"]),
    ("floats", [[0.0, 1.0]] * 6 + [[0.0]], ["row 6", "one length", "(2, as in row 0)", "found 1"]),
    ("floats", [[0.0, 1.0], [0.0]], ["row 1", "found 1"]),
    ("floats", [[], []], ["row 0", "found 0"]),
    ("floats", [[1.0], None], ["row 1", "null"]),
]


@pytest.mark.parametrize(("kind", "values", "words"), BAD_VALUES)
def test_bad_values_in_parquet(tmp_path, small_chunks, kind, values, words):
    path = write(tmp_path / "train.parquet", {"good": list(range(len(values))), "bad": values})
    refused(path, {"good": "id", "bad": kind}, "column 'bad'", *words)


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        ("id", np.array([1, 2, 3, 4, -9]), ["row 4", "found -9"]),
        ("id", np.array([1.0, 2.0]), ["float64", "integer"]),
        ("id", np.array([[1], [2]]), ["int64 (2, 1)", "integer"]),
        ("ids", np.array([1, 2]), ["int64 (2,)", "list"]),
        ("ids", np.ones((2, 2, 2), int), ["(2, 2, 2)"]),
        ("ids", np.array([[1, 2], [3, 4], [5, 6], [7, 8], [9, -1]]), ["row 4", "found -1"]),
        ("label", np.array([0, 1, 3.0]), ["row 2", "found 3.0"]),
        ("id", np.array(["a"]), ["<U1"]),
        ("id", np.array([{}], object), ["object"]),
    ],
)
def test_bad_values_in_npz(tmp_path, small_chunks, kind, values, words):
    np.savez(tmp_path / "train.npz", bad=values)
    refused(tmp_path / "train.npz", {"bad": kind}, "column 'bad'", *words)


def test_missing_column_lists_those_there_are(tmp_path):
    path = write(tmp_path / "train.parquet", {"item_id": [1], "items_seq": [[1]]})
    refused(path, {"item_seq": "history"}, "'item_seq'", "item_id, items_seq", "Did you mean 'items_seq'?")
    np.savez(tmp_path / "train.npz", item_id=np.array([1]))
    refused(tmp_path / "train.npz", {"item_ids": "id"}, "'item_ids'", "Did you mean 'item_id'?")


def test_missing_file_and_folder(tmp_path):
    refused(tmp_path / "train.parquet", {"a": "id"}, "no such file")
    (tmp_path / "folder.parquet").mkdir()
    refused(tmp_path / "folder.parquet", {"a": "id"}, "folder")


def test_files_that_are_none(tmp_path):
    path = tmp_path / "train.parquet"
    path.write_bytes(b"")
    refused(path, {"a": "id"}, "0 bytes")
    path.write_text("user_id,item_id\n1,2\n")
    refused(path, {"a": "id"}, "expected a parquet file", "b'user'")
    path = tmp_path / "train.npz"
    path.write_text("not a zip")
    refused(path, {"a": "id"}, "npz")
    path.write_bytes(b"PK\x03\x04 truncated")
    refused(path, {"a": "id"}, "npz")


def test_truncated_parquet(tmp_path):
    path = write(tmp_path / "train.parquet", {"a": np.arange(5000)})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, {"a": "id"}, "truncated")


def test_damaged_pages(tmp_path):
    path = write(
        tmp_path / "train.parquet", {"a": np.random.default_rng(0).integers(0, 2**40, 5000)}, row_group_size=500
    )
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2 : len(whole) // 2 + 3000] = b"\xff" * 3000
    path.write_bytes(bytes(whole))
    refused(path, {"a": "id"}, "damaged after row", "a")


def test_rows_that_never_come(tmp_path, small_chunks, monkeypatch):
    path = write(tmp_path / "train.parquet", {"a": list(range(10))})
    original = sources.ParquetSource.chunks
    monkeypatch.setattr(sources.ParquetSource, "chunks", lambda self, names: list(original(self, names))[:-1])
    refused(path, {"a": "id"}, "'a'", "expected 10 rows, found 8")


def test_no_rows(tmp_path):
    path = write(tmp_path / "valid.parquet", {"a": pa.array([], pa.int64())})
    refused(path, {"a": "id"}, "at least one row", "empty")
    np.savez(tmp_path / "valid.npz", a=np.array([], int))
    refused(tmp_path / "valid.npz", {"a": "id"}, "at least one row")


def test_npz_arrays_of_unequal_length(tmp_path):
    np.savez(tmp_path / "train.npz", a=np.arange(5), b=np.arange(4))
    refused(tmp_path / "train.npz", {"a": "id", "b": "id"}, "array 'b'", "5 rows", "found 4")


def test_pickled_npz_is_not_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (exec, ("raise SystemExit('unpickled')",))

    np.savez(tmp_path / "train.npz", a=np.array([Bomb()], object), allow_pickle=True)
    refused(tmp_path / "train.npz", {"a": "id"}, "object")


# -- labels of a test split ------------------------------------------------------------------------------------------


def test_label_may_be_absent_only_where_optional(tmp_path):
    path = write(tmp_path / "test.parquet", {"a": [1, 2]})
    refused(path, {"a": "id", "label": "label"}, "'label'")
    for _ in range(2):  # converted, then found
        table = open_table(path, {"a": "id", "label": "label"}, optional=["label"])
        assert not table.has_label
        assert "label" not in table
    with pytest.raises(DataError, match="'label'"):
        open_table(path, {"a": "id", "label": "label"})
    assert open_table(path, {"label": "label"}, optional=["label"]).num_rows == 2


@pytest.mark.parametrize(
    "values",
    [pa.array([-1] * 9), pa.array([None] * 9), pa.array([None] * 9, pa.float64()), pa.array([2.0] * 9),
     pa.array([float("nan")] * 9)],
)  # fmt: skip
def test_placeholder_labels_count_as_absent(tmp_path, small_chunks, caplog, values):
    path = write(tmp_path / "test.parquet", {"a": list(range(9)), "label": values})
    with caplog.at_level(logging.WARNING):
        assert not open_table(path, {"a": "id", "label": "label"}, optional=["label"]).has_label
    assert "'label'" in caplog.text
    assert not open_table(path, {"a": "id", "label": "label"}, optional=["label"]).has_label
    with pytest.raises(DataError, match="'label'"):
        open_table(path, {"label": "label"})


def test_placeholder_label_in_npz(tmp_path):
    np.savez(tmp_path / "test.npz", a=np.arange(3), label=np.full(3, np.nan))
    assert not open_table(tmp_path / "test.npz", {"a": "id", "label": "label"}, optional=["label"]).has_label


@pytest.mark.parametrize("values", [[0] * 9, [1.0] * 9, [0, 1] * 5])
def test_true_labels_of_a_test_split_are_kept(tmp_path, small_chunks, values):
    path = write(tmp_path / "test.parquet", {"label": values})
    assert open_table(path, {"label": "label"}, optional=["label"])["label"].values.tolist() == values


@pytest.mark.parametrize(
    "values", [[-1] * 8 + [0], [-1] * 8 + [None], [None] * 8 + [1], [0] * 8 + [None], [0, 7], [[1], [1]]]
)
def test_half_meaningless_labels_are_refused(tmp_path, small_chunks, values):
    path = write(tmp_path / "test.parquet", {"label": values})
    refused(path, {"label": "label"}, "'label'", optional=["label"])


def test_ids_beyond_a_limit(tmp_path):
    path = write(tmp_path / "t.parquet", {"a": [3, 1, 9, 8], "h": [[], [1, 2], [5], [9]], "w": [[1, 2], [3, 4]] * 2})
    table = open_table(path, {"a": "id", "h": "history", "w": "history"})
    for name, size, row, found in (("a", 4, 2, 9), ("h", 5, 2, 5), ("w", 3, 1, 3)):
        with pytest.raises(DataError, match=rf"'{name}', row {row}: expected ids below {size}, .*; found {found} "):
            table[name].check_below(size, "the limit")
    table["a"].check_below(10, "the limit")


def test_prefetch_advises_the_whole_file(tmp_path, monkeypatch):
    column = open_table(write(tmp_path / "t.parquet", {"a": np.arange(2_000_000)}), {"a": "id"})["a"]
    column.prefetch()
    advised = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, start, size, _: advised.append((start, size)), raising=False)
    monkeypatch.setattr(os, "POSIX_FADV_WILLNEED", 3, raising=False)
    column.prefetch()
    assert advised == [(0, 4 << 20), (4 << 20, 4 << 20)]  # 128 + 8,000,000 bytes
    monkeypatch.setattr(os, "sysconf", lambda _: 3000)
    column.prefetch()  # a file that would fill half of the memory is left alone
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    column.prefetch()
    assert len(advised) == 2


def test_released_pages_can_be_read_again(tmp_path):
    column = open_table(write(tmp_path / "t.parquet", {"a": np.arange(100_000)}), {"a": "id"})["a"]
    assert column.values.sum() == 4_999_950_000
    for start, stop in [(0, 100_000), (5, 7), (99_990, 200_000)]:
        column.release(start, stop)
        assert column.values.astype(np.int64).sum() == 4_999_950_000


@pytest.mark.parametrize("shape", [(10**18,), (10**9, 10**9), (-3,), (3, 10**6)])
def test_npz_with_an_absurd_shape(tmp_path, shape):
    header = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header + bytes(24))
    refused(tmp_path / "t.npz", {"a": "id"}, "npz")


def test_a_column_twice(tmp_path):
    one = pa.table({"a": [1], "b": [2]})
    pq.write_table(one.append_column("a", pa.array([3])), tmp_path / "t.parquet")
    refused(tmp_path / "t.parquet", {"a": "id"}, "different names", "'a' 2 times")
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for n in (1, 2):
            with archive.open("a.npy", "w") as file:
                np.lib.format.write_array(file, np.array([n]))
    refused(tmp_path / "t.npz", {"a": "id"}, "different names", "2 times")


@pytest.mark.parametrize("name", ["pipe.parquet", "pipe.npz"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    refused(tmp_path / name, {"a": "id"}, "expected a file", "named pipe")


@pytest.mark.parametrize("value", ["x", [1], {"a": 1}, datetime.date(2020, 1, 1), b"1", decimal.Decimal(1)])
def test_absurd_labels(tmp_path, value):
    other = datetime.date(2020, 1, 2) if isinstance(value, datetime.date) else value  # a single one says nothing
    pq.write_table(pa.table({"y": [value, other]}), tmp_path / "t.parquet")
    for optional in ([], ["y"]):
        with pytest.raises(DataError, match="'y': expected a label, 0 or 1"):
            open_table(tmp_path / "t.parquet", {"y": "label"}, optional=optional)
