import logging

import numpy as np
import pyarrow as pa
import pytest
import torch
from data_path_files import ITEMS, ROWS, DataSet, row_columns, write

from qin_zoo.batch import ItemBatch
from qin_zoo.data import columns, histories
from qin_zoo.data.loader import ItemTableLoader
from qin_zoo.data.stored import Column
from qin_zoo.errors import ConfigError, DataError


def loader(small, split="train", **options):
    options = {"max_len": 6, "batch_layout": "index", **options}
    params = {k: v for k, v in small.params.items() if k in ("item_info", "user_info")}
    return ItemTableLoader(small.feature_map(), small.params[f"{split}_data"], split=split, **{**params, **options})


def plain_triple(small, split, rows, max_len):
    """The public batch, built one row and one position at a time."""
    data, per_user = small.rows[split], "user_info" in small.params
    target = "item_index" if per_user else "item_id"
    row_names = ["user_index", "item_index", "seq_len"] if per_user else ["user_id"]
    batch = {name: [] for name in [*row_names, "likes_level", "views_level", "label"] if name in data}
    flat, mask = [], []
    for r in rows:
        for name in batch:
            batch[name].append(data[name][r])
        if per_user:
            history = small.users["full_item_seq"][data["user_index"][r]][: data["seq_len"][r]]
        else:
            history = [i for i in data["item_seq"][r] if i]
        history = history[-max_len:] if max_len else []
        flat += [0] * (max_len - len(history)) + history + [data[target][r]]
        mask.append([0.0] * (max_len - len(history)) + [1.0] * len(history))
    longest = max(len(t) for t in small.items["item_tags"])
    tags = [t + [0] * (longest - len(t)) for t in small.items["item_tags"]]
    items = {
        "item_id": torch.tensor([small.items["item_id"][i] for i in flat]),
        "item_tags": torch.tensor([tags[i] for i in flat]),
        "item_emb": torch.tensor([small.items["item_emb"][i] for i in flat]),
        "price": torch.tensor([small.items["price"][i] for i in flat]),
    }
    dtype = {"label": torch.float32}
    rows = {name: torch.tensor(np.array(v)).to(dtype.get(name, torch.int64)) for name, v in batch.items()}
    return rows, items, torch.tensor(mask).reshape(len(mask), max_len)


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name in expected:
        assert found[name].dtype == expected[name].dtype, name
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)


LAYOUTS = [("row", None), ("row", 9), ("user", None)]


@pytest.fixture(params=LAYOUTS, ids=["ragged", "padded", "per-user"])
def small(request, tmp_path):
    return DataSet(tmp_path, *request.param)


@pytest.mark.parametrize("max_len", [0, 1, 6, 30])
@pytest.mark.parametrize("split", ["train", "test"])
def test_triples_equal_plain_loops(small, split, max_len):
    found = loader(small, split, batch_size=20, max_len=max_len, batch_layout="triple")
    batches = list(found)
    assert [len(mask) for _, _, mask in batches] == [20, 20, 13]  # the last, smaller batch is kept
    for start, (rows, items, mask) in zip((0, 20, 40), batches):
        expected = plain_triple(small, split, range(ROWS)[start : start + 20], max_len)
        assert_same(rows, expected[0])
        assert_same(items, expected[1])
        torch.testing.assert_close(mask, expected[2], rtol=0, atol=0)
        assert ("label" in rows) == (split == "train")


def test_index_batches_hold_the_same(small):
    triples = loader(small, batch_size=20, batch_layout="triple")
    indexed = loader(small, batch_size=20)
    for batch, triple in zip(indexed, triples):
        assert isinstance(batch, ItemBatch)
        assert batch.items is indexed.items
        assert batch.history.dtype == batch.target.dtype == torch.int64
        for a, b in zip(batch.triple()[:2], triple[:2]):
            assert_same(a, b)
        assert torch.equal(batch.triple()[2], triple[2])


def test_big_histories_are_gathered_ahead_of_their_batches(small, monkeypatch):
    expected = list(loader(small, batch_size=8, shuffle=True, seed=3))
    monkeypatch.setattr(histories, "_WINDOW", 32)
    monkeypatch.setattr(histories, "_BUFFER", 600)
    found = loader(small, batch_size=8, shuffle=True, seed=3)
    assert found.histories.rows_ahead(8) == 24
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.history, b.history)
        assert a.history.dtype == torch.int64
        assert_same(a.rows, b.rows)


def test_sizes(small):
    found = loader(small, batch_size=20)
    assert (found.num_samples, found.num_batches, found.num_blocks, len(found)) == (ROWS, 3, 1, 3)
    assert loader(small, batch_size=ROWS).num_batches == 1
    assert loader(small, batch_size=1).num_batches == ROWS
    assert loader(small, max_len=None).histories.max_len > 0


def test_any_rows_can_be_asked_for(small):
    found = loader(small, batch_layout="triple")
    rows, items, mask = found.batch(np.array([7, 7, 2]))
    expected = plain_triple(small, "train", [7, 7, 2], 6)
    assert_same(rows, expected[0])
    assert_same(items, expected[1])
    assert torch.equal(mask, expected[2])


def test_labels(small):
    assert loader(small, "train").has_label
    assert not loader(small, "test").has_label


def test_loaders_of_one_item_table_share_its_tensors(small):
    a, b = loader(small, "train"), loader(small, "test")
    assert all(a.items[name] is b.items[name] for name in a.items)


# -- order -----------------------------------------------------------------------------------------------------------


def visited(found):
    """The rows of an epoch, told by the position of each batch in the file."""
    order = []
    original = found._batch
    found._batch = lambda rows, history: order.extend(rows.tolist()) or original(rows, history)
    assert sum(len(b) for b in found) == ROWS
    del found._batch
    return order


def test_epochs_differ_and_repeat_by_seed(small):
    a, b, c = (loader(small, shuffle=True, batch_size=10, seed=s) for s in (1, 1, 2))
    first, second = visited(a), visited(a)
    assert sorted(first) == sorted(second) == list(range(ROWS))
    assert first != second
    assert first != list(range(ROWS))
    assert (visited(b), visited(b)) == (first, second)
    assert visited(c) != first
    a.set_epoch(1)
    assert visited(a) == second
    a.set_epoch(0)
    assert visited(a) == first


def test_an_epoch_advances_at_iter_even_if_it_is_left(small):
    a, b = loader(small, shuffle=True, batch_size=10), loader(small, shuffle=True, batch_size=10)
    next(iter(a))
    visited(b)
    assert visited(a) == visited(b)


def test_two_iterators_do_not_disturb_each_other(small):
    a, b = loader(small, shuffle=True, batch_size=10), loader(small, shuffle=True, batch_size=10)
    expected = [[batch.target for batch in b] for _ in range(2)]
    found = list(zip(iter(a), iter(a)))
    for (x, y), u, v in zip(found, *expected):
        assert torch.equal(x.target, u)
        assert torch.equal(y.target, v)


def test_without_shuffling_and_for_other_splits_the_order_is_the_files(small):
    for found in (
        loader(small, shuffle=False),
        loader(small, "valid", shuffle=True),
        loader(small, "test", shuffle=True),
    ):
        assert visited(found) == visited(found) == list(range(ROWS))


def test_shuffled_rows_stay_whole(small):
    found = loader(small, shuffle=True, batch_size=20, batch_layout="triple")
    for (rows, items, mask), start in zip(found, range(0, ROWS, 20)):
        expected = plain_triple(small, "train", found.order(0)[start : start + 20], 6)
        assert_same(rows, expected[0])
        assert_same(items, expected[1])
        assert torch.equal(mask, expected[2])


def test_a_shuffled_epoch_has_its_columns_read_in_order_first(small, monkeypatch):
    seen = []
    monkeypatch.setattr(Column, "prefetch", lambda self: seen.append(self.name))
    iter(loader(small))
    assert seen == []
    iter(loader(small, shuffle=True))
    assert {"label", "full_item_seq" if "user_info" in small.params else "item_seq"} <= set(seen)


@pytest.mark.parametrize("seed", [-1, 0, 2**70])
def test_any_whole_seed_will_do(small, seed):
    assert sorted(visited(loader(small, shuffle=True, seed=seed))) == list(range(ROWS))


# -- files -----------------------------------------------------------------------------------------------------------


def test_columns_are_converted_once(small, monkeypatch):
    for split in ("train", "valid", "test"):
        loader(small, split)
    monkeypatch.setattr(columns, "open_source", lambda path: pytest.fail(f"{path} was read again"))
    for split in ("train", "valid", "test"):
        loader(small, split)


def test_fingerprint(small):
    found = loader(small).fingerprint
    assert found["file"] == "train.parquet"
    assert found["rows"] == ROWS
    assert len(found["blake2b"]) == 32
    assert found["item_info"]["file"] == "item_info.parquet"
    assert found["item_info"]["rows"] == ITEMS
    assert ("user_info" in found) == ("user_info" in small.params)


def test_item_info_beside_the_data_and_paths_without_suffix(tmp_path):
    small = DataSet(tmp_path)
    found = ItemTableLoader(small.feature_map(), str(tmp_path / "train"), batch_layout="index", max_len=6)
    assert torch.equal(next(iter(found)).history, next(iter(loader(small))).history)


def test_the_history_may_be_listed_as_a_feature_and_is_no_row_column(tmp_path):
    """As the published configurations list it, of type meta."""
    small = DataSet(tmp_path, width=9)
    expected = next(iter(loader(small)))
    small.params["feature_cols"].insert(1, {"name": "item_seq", "active": True, "dtype": "int", "type": "meta"})
    found = next(iter(loader(small)))
    assert "item_seq" in small.feature_map().features
    assert_same(found.rows, expected.rows)
    assert torch.equal(found.history, expected.history)


def test_row_lists_and_vectors(tmp_path):
    """Rows may hold lists, vectors and numbers of their own."""
    small = DataSet(tmp_path)
    small.params["feature_cols"] += [
        {"name": "genres", "type": "sequence", "max_len": 4},
        {"name": "age", "type": "numeric"},
        {"name": "user_emb", "type": "embedding"},
    ]
    rng = np.random.default_rng(0)
    extra = {
        "genres": [[1, 2][: i % 3] for i in range(ROWS)],
        "age": rng.random(ROWS),
        "user_emb": rng.random((ROWS, 3)).tolist(),
    }
    write(tmp_path / "train.parquet", small.rows["train"] | extra)
    rows = next(iter(loader(small, batch_size=ROWS))).rows
    assert rows["genres"].tolist() == [g + [0] * (4 - len(g)) for g in extra["genres"]]
    np.testing.assert_array_equal(rows["age"], extra["age"].astype(np.float32))
    np.testing.assert_array_equal(rows["user_emb"], np.array(extra["user_emb"], np.float32))
    extra["genres"][3] = [1] * 5
    write(tmp_path / "train.parquet", small.rows["train"] | extra)
    with pytest.raises(DataError, match=r"'genres': expected lists of at most 4 ids.* found one of 5"):
        loader(small)


def refused(small, split, kind, *words, **options):
    with pytest.raises(kind) as error:
        loader(small, split, **options)
    for word in words:
        assert str(word) in str(error.value), str(error.value)


@pytest.mark.parametrize("column", ["item_id", "item_seq"])
@pytest.mark.parametrize("width", [None, 9])
def test_ids_beyond_the_item_table(tmp_path, column, width):
    small = DataSet(tmp_path, width=width)
    data = row_columns(width=width)
    data[column][11] = ITEMS + 2 if column == "item_id" else [*[0] * 8, ITEMS + 2]
    path = write(tmp_path / "train.parquet", data)
    refused(small, "train", DataError, path, f"'{column}'", "row 11", f"below {ITEMS}", f"found {ITEMS + 2}")


def test_user_histories_beyond_the_item_table(tmp_path):
    small = DataSet(tmp_path, "user")
    small.users["full_item_seq"][4] = [*small.users["full_item_seq"][4], ITEMS]
    path = write(tmp_path / "user_info.parquet", small.users)
    refused(small, "train", DataError, path, "'full_item_seq'", "row 4", f"found {ITEMS}")


def test_levels_beyond_the_vocabulary(tmp_path):
    small = DataSet(tmp_path)
    small.rows["train"]["likes_level"][9] = 11
    path = write(tmp_path / "train.parquet", small.rows["train"])
    refused(small, "train", DataError, path, "'likes_level'", "row 9", "found 11", "below 11")


def test_tags_beyond_the_vocabulary(tmp_path):
    small = DataSet(tmp_path)
    small.items["item_tags"][9] = [12]
    path = write(tmp_path / "item_info.parquet", small.items)
    refused(small, "train", DataError, path, "'item_tags'", "row 9", "found 12")


@pytest.mark.parametrize("split", ["train", "valid"])
def test_labels_are_needed_except_in_test(tmp_path, split):
    small = DataSet(tmp_path)
    del small.rows[split]["label"]
    path = write(tmp_path / f"{split}.parquet", small.rows[split])
    refused(small, split, DataError, path, "'label'")


def test_test_rows_with_a_placeholder_label(tmp_path):
    small = DataSet(tmp_path)
    write(tmp_path / "test.parquet", small.rows["test"] | {"label": pa.array([None] * ROWS, pa.int64())})
    found = loader(small, "test")
    assert not found.has_label
    assert "label" not in next(iter(found)).rows


def test_an_empty_split(tmp_path):
    small = DataSet(tmp_path)
    path = write(
        tmp_path / "valid.parquet",
        pa.table(small.rows["valid"]).slice(0, 0).to_pydict() | {"item_id": pa.array([], pa.int64())},
    )
    refused(small, "valid", DataError, path, "at least one row")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"batch_size": True}, "batch_size"),
        ({"seed": "7"}, "seed"),
        ({"max_len": -1}, "max_len"),
        ({"batch_layout": "triples"}, "Did you mean 'triple'"),
    ],
)
def test_bad_arguments(tmp_path, options, word):
    refused(DataSet(tmp_path), "train", ConfigError, word, **options)


def test_no_path(tmp_path):
    with pytest.raises(ConfigError, match="train_data"):
        ItemTableLoader(DataSet(tmp_path).feature_map(), None)


def test_regression_targets(tmp_path):
    small = DataSet(tmp_path)
    small.rows["train"]["label"] = np.linspace(0, 3, ROWS)
    write(tmp_path / "train.parquet", small.rows["train"])
    refused(small, "train", DataError, "'label'", "0 or 1")
    found = loader(small, task="regression", batch_size=ROWS)
    assert found.has_label
    assert found.table.has_label
    np.testing.assert_allclose(next(iter(found)).rows["label"], np.linspace(0, 3, ROWS), rtol=1e-6)


def test_fuxictr_takes_the_class(small, caplog):
    from fuxictr.pytorch.dataloaders import RankDataLoader

    params = {**small.params, "data_loader": ItemTableLoader, "max_len": 6, "batch_size": 20, "seed": 4,
              "shuffle": True, "num_workers": 3, "data_format": "parquet", "model": "QIN", "gpu": -1}  # fmt: skip
    with caplog.at_level(logging.INFO):
        train, valid, test = RankDataLoader(small.feature_map(), stage="both", **params)
    assert f"Train samples: total/{ROWS}, blocks/1" in caplog.text
    assert (train.shuffle, valid.shuffle, test.shuffle) == (True, False, False)
    own = loader(small, seed=4, shuffle=True, batch_size=20, batch_layout="triple")
    for (rows, items, mask), (r, i, m) in zip(train, own, strict=True):
        assert_same(rows, r)
        assert_same(items, i)
        assert torch.equal(mask, m)
    alone = RankDataLoader(small.feature_map(), stage="test", **params)
    assert len(list(alone)) == 3


def per_user(folder, numbers):
    """A per-user data set whose users' rows stand in another order, with the numbers of ``numbers``."""
    small = DataSet(folder, "user")
    users = len(small.users["full_item_seq"])
    order = np.random.default_rng(0).permutation(users)
    histories = [small.users["full_item_seq"][u] for u in order]
    table = {"user_index": [numbers[u] for u in order], "full_item_seq": histories}
    write(folder / "user_info.parquet", table)
    for split, rows in small.rows.items():
        renamed = {**rows, "user_index": [numbers[u] for u in rows["user_index"]]}
        write(folder / f"{split}.parquet", renamed)
    return small, table


@pytest.mark.parametrize("numbers", [range(9), range(1, 10), [10**12 + 7 * i for i in range(9)]])
def test_a_history_is_that_of_the_user_who_is_named(tmp_path, numbers):
    small, _ = per_user(tmp_path, list(numbers))
    for split in ("train", "test"):
        found = loader(small, split, max_len=6).histories.gather(np.arange(ROWS))
        for row, history in enumerate(found):
            rows = small.rows[split]
            seen = small.users["full_item_seq"][rows["user_index"][row]][: rows["seq_len"][row]][-6:]
            assert history.tolist() == [0] * (6 - len(seen)) + seen


def test_users_that_are_unknown_or_there_twice(tmp_path):
    small, table = per_user(tmp_path, list(range(1, 10)))
    write(tmp_path / "user_info.parquet", {**table, "user_index": [9, *table["user_index"][1:]]})
    with pytest.raises(DataError, match=r"user_info\.parquet, column 'user_index', row .*found 9 a second time"):
        loader(small)
    write(tmp_path / "user_info.parquet", {n: v[1:] for n, v in table.items()})
    with pytest.raises(DataError, match=r"train\.parquet, column 'user_index', row .*expected a user of"):
        loader(small)


def test_targets_that_are_padding_are_said(tmp_path, caplog):
    small = DataSet(tmp_path)
    loader(small)
    assert not caplog.messages
    write(tmp_path / "train.parquet", {**small.rows["train"], "item_id": [0, 0, *small.rows["train"]["item_id"][2:]]})
    loader(small)
    assert any("the target of 2 of the 53 train rows is 0, which is padding" in m for m in caplog.messages)
