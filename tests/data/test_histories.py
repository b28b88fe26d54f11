import numpy as np
import pytest
from data_path_files import write
from hypothesis import given, settings
from hypothesis import strategies as st

from qin_zoo.data import histories
from qin_zoo.data.columns import open_table
from qin_zoo.data.histories import RowHistories, UserHistories, gather_lists
from qin_zoo.errors import ConfigError, DataError


def newest(items, length):
    """The plain rule, one list at a time."""
    real = [i for i in items if i][-length:] if length else []
    return [0] * (length - len(real)) + real


def per_row(tmp_path, lists, max_len=None):
    return RowHistories(open_table(write(tmp_path / "t.parquet", {"h": lists}), {"h": "history"})["h"], max_len)


RAGGED = [[], [1], [1, 2, 3], [0, 0, 4], [5, 0, 6], [0], list(range(1, 12)), [7, 8, 0]]
PADDED = [[0] * (6 - n) + list(range(1, n + 1)) for n in range(7)]
FULL = np.arange(1, 41).reshape(8, 5).tolist()


@pytest.mark.parametrize("lists", [RAGGED, PADDED, FULL], ids=["ragged", "padded", "full"])
@pytest.mark.parametrize("max_len", [0, 1, 3, 5, 40, None])
def test_rows_equal_the_plain_rule(tmp_path, lists, max_len):
    found = per_row(tmp_path, lists, max_len)
    length = max(len([i for i in x if i]) for x in lists) if max_len is None else max_len
    assert found.max_len == length
    rows = np.array([len(lists) - 1, 0, 3, 3, 1])
    out = found.gather(rows)
    assert out.dtype == np.int64
    assert out.shape == (5, length)
    assert out.tolist() == [newest(lists[r], length) for r in rows]


@pytest.mark.parametrize("lists", [RAGGED, FULL], ids=["ragged", "full"])
def test_no_rows(tmp_path, lists):
    assert per_row(tmp_path, lists, 3).gather(np.array([], int)).shape == (0, 3)


def test_nobody_has_a_history(tmp_path):
    assert per_row(tmp_path, [[0, 0], [0], [0]], 2).gather(np.array([2, 0])).tolist() == [[0, 0], [0, 0]]
    assert per_row(tmp_path, [[0, 0], [0], [0]]).gather(np.array([1])).shape == (1, 0)


@pytest.mark.parametrize("max_len", [-1, 2.0, True, "64"])
def test_max_len_is_checked(tmp_path, max_len):
    with pytest.raises(ConfigError, match="max_len"):
        per_row(tmp_path, RAGGED, max_len)


@pytest.mark.parametrize("lists", [RAGGED * 20, FULL * 20, PADDED * 20], ids=["ragged", "full", "padded"])
def test_big_columns_read_window_by_window_give_the_same(tmp_path, monkeypatch, lists):
    rows = np.random.default_rng(0).permutation(len(lists))
    plain = per_row(tmp_path, lists, 4)
    expected = plain.gather(rows)
    assert plain.rows_ahead(10) == 10
    monkeypatch.setattr(histories, "_WINDOW", 64)
    monkeypatch.setattr(histories, "_BUFFER", 1000)
    assert plain.windowed
    assert plain.rows_ahead(10) == 60  # 16 bytes a row
    assert plain.rows_ahead(100) == 100
    np.testing.assert_array_equal(plain.gather(rows), expected)
    narrow = plain.gather(rows, np.int32)
    assert narrow.dtype == np.int32
    np.testing.assert_array_equal(narrow, expected)
    assert plain.gather(rows[:0]).shape == (0, 4)


def test_windows_are_given_back(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    lists = rng.integers(1, 9, (20_000, 40))
    found = per_row(tmp_path, lists.tolist(), 40)
    column, given = found.column, []
    monkeypatch.setattr(histories, "_WINDOW", 1 << 18)
    release = type(column).release
    monkeypatch.setattr(type(column), "release", lambda self, a, b: given.append((a, b)) or release(self, a, b))
    np.testing.assert_array_equal(found.gather(np.arange(20_000)[::-1]), lists[::-1])
    step = (1 << 18) // 4
    assert given == [(a, a + step) for a in range(0, lists.size, step)]


USERS = [[1, 2, 3, 4], [], [5], [6, 0, 7, 8, 9, 10]]


def per_user(tmp_path, users, index, seen, max_len=None):
    write(tmp_path / "user_info.parquet", {"full_item_seq": users})
    write(tmp_path / "train.parquet", {"user_index": index, "seq_len": seen})
    table = open_table(tmp_path / "train.parquet", {"user_index": "id", "seq_len": "id"})
    lists = open_table(tmp_path / "user_info.parquet", {"full_item_seq": "ids"})["full_item_seq"]
    return UserHistories(lists, table["user_index"], table["seq_len"], max_len)


@pytest.mark.parametrize("users", [USERS, [[1, 2, 3, 4, 5, 6]] * 4], ids=["ragged", "full"])
@pytest.mark.parametrize("max_len", [0, 2, 4, 9, None])
def test_users_equal_the_plain_rule(tmp_path, users, max_len):
    index = [0, 0, 0, 2, 3, 3, 1, 0]
    seen = [min(s, len(users[u])) for s, u in zip([4, 0, 3, 1, 6, 2, 0, 1], index)]
    found = per_user(tmp_path, users, index, seen, max_len)
    length = max(seen) if max_len is None else max_len
    expected = []
    for u, s in zip(index, seen):
        part = users[u][:s][-length:] if length else []
        expected.append([0] * (length - len(part)) + part)  # a zero within the list keeps its place
    assert found.gather(np.arange(8)).tolist() == expected
    assert found.gather(np.array([5, 2])).tolist() == [expected[5], expected[2]]


def test_users_window_by_window(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    users = [rng.integers(1, 99, rng.integers(0, 30)).tolist() for _ in range(50)]
    index = rng.integers(0, 50, 300)
    found = per_user(tmp_path, users, index, [len(users[u]) for u in index], 7)
    expected = found.gather(np.arange(300))
    monkeypatch.setattr(histories, "_WINDOW", 64)
    np.testing.assert_array_equal(found.gather(np.arange(300)), expected)


def test_a_user_beyond_the_table(tmp_path):
    with pytest.raises(DataError) as error:
        per_user(tmp_path, USERS, [0, 3, 4], [0, 0, 0])
    for word in (str(tmp_path / "train.parquet"), "user_index", "row 2", "found 4", "user_info.parquet"):
        assert word in str(error.value)


def test_more_entries_than_the_user_has(tmp_path):
    with pytest.raises(DataError) as error:
        per_user(tmp_path, USERS, [0, 3, 2], [4, 6, 2])
    for word in (str(tmp_path / "train.parquet"), "seq_len", "row 2", "at most 1", "found 2", "user 2"):
        assert word in str(error.value)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=8), st.integers(0, 7))
def test_gather_lists_on_any_lists(lists, length):
    values = np.array([i for x in lists for i in x], np.int32)
    ends = np.cumsum([len(x) for x in lists])
    starts = ends - [len(x) for x in lists]
    right = gather_lists(values, starts, ends, length)
    left = gather_lists(values, starts, ends, length, align="left")
    assert right.tolist() == [newest(x, length) for x in lists]
    assert left.tolist() == [(x[:length] + [0] * length)[:length] for x in lists]
