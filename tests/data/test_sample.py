"""Sample data: the challenge's layout, known probabilities, the same seed the same sample, nothing half-made."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from qin_zoo.data import sample
from qin_zoo.data.sample import FILES, read_summary, write_sample
from qin_zoo.errors import DataError

ROWS, ITEMS = 3000, 200
SMALL = {"rows": 300, "items": 60, "valid_rows": 100, "test_rows": 100, "history_length": 12, "embedding_dim": 4}


def small(out, **changes):
    return write_sample(out, **{**SMALL, **changes})


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def lists(table, name):
    """A list column as an array (n, m)."""
    column = table[name].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("sample") / "s"
    return write_sample(out, ROWS, ITEMS, valid_rows=20_000)


@pytest.fixture(scope="module")
def tables(made):
    return {name: pq.read_table(made.path / name) for name in FILES}


def test_layout(made, tables):
    columns = {"user_id": pa.int64(), "item_id": pa.int64(), "item_seq": pa.list_(pa.int64())}
    columns |= {"likes_level": pa.int64(), "views_level": pa.int64()}
    labelled = columns | {"label": pa.int64()}
    for name, expected in (("train", labelled), ("valid", labelled), ("test", columns)):
        table = tables[f"{name}.parquet"]
        assert dict(zip(table.schema.names, table.schema.types)) == expected
        assert table.num_rows == made.splits[name].rows
        assert all(table[c].null_count == 0 for c in table.column_names)
        assert lists(table, "item_seq").shape == (table.num_rows, 100)
    assert tables["train.parquet"].num_rows == made.splits["train"].rows == ROWS
    assert tables["test.parquet"].num_rows == 2000

    items = tables["item_info.parquet"]
    assert items.schema.names == ["item_id", "item_tags", "item_emb_d128"]
    assert items.schema.types == [pa.int64(), pa.list_(pa.int64()), pa.list_(pa.float32())]
    assert items["item_id"].to_pylist() == list(range(ITEMS + 1))
    assert lists(items, "item_tags").shape == (ITEMS + 1, 5)
    assert lists(items, "item_emb_d128").shape == (ITEMS + 1, 128)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_rows(tables, split):
    table = tables[f"{split}.parquet"]
    target, history = table["item_id"].to_numpy(), lists(table, "item_seq")
    assert target.min() >= 1
    assert target.max() <= ITEMS
    assert history.min() == 0
    assert history.max() <= ITEMS
    assert (np.diff((history > 0).astype(int), axis=1) >= 0).all()  # padding on the left only
    length = (history > 0).sum(1)
    assert 30 < length.mean() < 50
    assert (length[length > 0] >= 10).all()
    for name in ("likes_level", "views_level"):
        level = table[name].to_numpy()
        assert level.min() >= 0
        assert level.max() <= 10
        assert all(np.unique(level[target == item]).size <= 1 for item in range(1, 20))  # the item's own


def test_users(made, tables):
    ids = [np.unique(tables[f"{s}.parquet"]["user_id"].to_numpy()) for s in ("train", "valid", "test")]
    users = sum(split.users for split in made.splits.values())
    np.testing.assert_array_equal(np.concatenate(ids), np.arange(1, users + 1))
    assert ids[0].size == round(ROWS / 3.6)


def test_a_users_history_grows(tables):
    table = tables["train.parquet"]
    users, history = table["user_id"].to_numpy(), lists(table, "item_seq")
    grown = 0
    for user in np.unique(users)[:50]:
        rows = [row[row > 0] for row in history[users == user]]
        longest = max(rows, key=len)
        assert all((row == longest[: len(row)]).all() for row in rows)
        grown += len({len(row) for row in rows}) > 1
    assert grown > 10


def test_probabilities_are_calibrated(tables):
    """Within bins of either probability the share of clicks is the mean probability."""
    truth = tables["truth/valid.parquet"]
    assert truth.schema.types == [pa.int8(), pa.float32(), pa.float32()]
    label = truth["label"].to_numpy()
    np.testing.assert_array_equal(label, tables["valid.parquet"]["label"].to_numpy())
    for name in ("probability", "blind_probability"):
        p = truth[name].to_numpy().astype(np.float64)
        assert ((p > 0) & (p < 1)).all()
        for part in np.array_split(np.argsort(p), 10):
            deviation = np.sqrt((p[part] * (1 - p[part])).sum())
            assert abs(label[part].sum() - p[part].sum()) < 4 * deviation


def test_summary(made, tables):
    for name in ("valid", "test"):
        truth = tables[f"truth/{name}.parquet"]
        label = truth["label"].to_numpy()
        assert made.best_auc[name] == pytest.approx(roc_auc_score(label, truth["probability"].to_numpy()))
        assert made.blind_auc[name] == pytest.approx(roc_auc_score(label, truth["blind_probability"].to_numpy()))
        assert made.best_auc[name] > made.blind_auc[name] + 0.08
        assert made.splits[name].click_rate == pytest.approx(label.mean())
    assert set(made.best_auc) == set(made.blind_auc) == {"valid", "test"}
    assert made.splits["train"].click_rate == pytest.approx(tables["train.parquet"]["label"].to_numpy().mean())
    assert abs(made.splits["valid"].click_rate - 0.25) < 0.015
    assert (made.seed, made.items) == (1, ITEMS)
    assert made.parameters["rules"]["intercept"] < 0

    again = read_summary(made.path)
    assert again == made
    assert again.path == made.path
    content = json.loads((made.path / "sample.json").read_text())
    assert content["splits"]["valid"]["best_auc"] == made.best_auc["valid"]


def test_default_sample_is_worth_learning(tmp_path):
    """At 2,000 items: a quarter of clicks, the best AUC near 0.92, the history needed for most of it."""
    made = write_sample(tmp_path / "s", 10_000, valid_rows=10_000)
    assert abs(made.splits["train"].click_rate - 0.25) < 0.02
    assert 0.88 < made.best_auc["valid"] < 0.94
    assert made.blind_auc["valid"] < made.best_auc["valid"] - 0.08


def test_same_seed_same_bytes_other_seed_other_values(tmp_path):
    small(tmp_path / "a", seed=3)
    np.random.default_rng().random()
    small(tmp_path / "b", seed=3)
    small(tmp_path / "c", seed=4)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    one, other = files(tmp_path / "a"), files(tmp_path / "c")
    assert all(one[name] != other[name] for name in one)


def test_splits_do_not_depend_on_each_other(tmp_path):
    small(tmp_path / "a")
    small(tmp_path / "b", valid_rows=150)
    one, other = files(tmp_path / "a"), files(tmp_path / "b")
    for name in ("train.parquet", "item_info.parquet", "truth/test.parquet"):
        assert one[Path(name)] == other[Path(name)]


def test_chunks_cover_all_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "ROWS_PER_CHUNK", 70)
    made = small(tmp_path / "s")
    file = pq.ParquetFile(tmp_path / "s" / "train.parquet")
    assert file.metadata.num_rows == 300
    assert file.metadata.num_row_groups > 3
    assert np.unique(file.read()["user_id"].to_numpy()).size == made.parameters["users"]
    assert pq.read_metadata(tmp_path / "s" / "truth" / "valid.parquet").num_rows == 100


@pytest.mark.parametrize("users", [1, 300])
def test_few_and_many_users(tmp_path, users):
    made = small(tmp_path / "s", users=users)
    seen = np.unique(pq.read_table(tmp_path / "s" / "train.parquet")["user_id"].to_numpy())
    assert seen.size == users == made.splits["train"].users


@pytest.mark.parametrize("length", [1, 5])
def test_short_histories(tmp_path, length):
    small(tmp_path / "s", history_length=length)
    assert lists(pq.read_table(tmp_path / "s" / "valid.parquet"), "item_seq").shape == (100, length)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("rows", 99),
        ("rows", 1e6),
        ("rows", "many"),
        ("items", 49),
        ("seed", -1),
        ("users", 0),
        ("users", 301),
        ("valid_rows", 0),
        ("test_rows", -5),
        ("history_length", 0),
        ("embedding_dim", 0),
    ],
)
def test_bad_argument(tmp_path, argument, value):
    with pytest.raises(DataError, match=argument) as error:
        small(tmp_path / "s", **{argument: value})
    assert str(value) in str(error.value)
    assert not any(tmp_path.iterdir())


def test_made_once(tmp_path, monkeypatch):
    first = small(tmp_path / "s")
    before = files(tmp_path / "s")
    with monkeypatch.context() as patch:
        patch.setattr(sample, "_generate", None)
        assert small(str(tmp_path / "s")) == first
    (tmp_path / "s" / "cache").touch()
    assert small(tmp_path / "s", force=True) == first
    assert files(tmp_path / "s") == before | {Path("cache"): b""}


def test_sample_of_other_parameters_is_replaced_by_force_only(tmp_path):
    small(tmp_path / "s")
    before = files(tmp_path / "s")
    with pytest.raises(DataError, match=r"already holds a sample of other parameters.*seed 1"):
        small(tmp_path / "s", seed=2)
    assert files(tmp_path / "s") == before
    assert small(tmp_path / "s", seed=2, force=True).seed == 2
    assert read_summary(tmp_path / "s").seed == 2
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("force", [False, True])
def test_something_else_is_never_replaced(tmp_path, force):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"not empty.*notes\.txt"):
        small(tmp_path, force=force)
    with pytest.raises(DataError, match=r"notes\.txt is a file"):
        small(tmp_path / "notes.txt", force=force)
    assert files(tmp_path) == {Path("notes.txt"): b"mine"}


def test_incomplete_sample_is_something_else(tmp_path):
    small(tmp_path / "s")
    (tmp_path / "s" / "train.parquet").unlink()
    assert read_summary(tmp_path / "s") is None
    with pytest.raises(DataError, match="no complete sample"):
        small(tmp_path / "s")


def test_empty_folder_and_missing_parents(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    small(".")
    assert Path("train.parquet").is_file()
    small(tmp_path / "a" / "b" / "c")
    assert read_summary(tmp_path / "a" / "b" / "c") is not None
    assert os.listdir(tmp_path / "a" / "b") == ["c"]


def test_what_a_killed_run_left_is_deleted(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".part-{dead.pid}" / "truth").mkdir(parents=True)
    small(tmp_path)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema_version": 99}', '{"schema_version": 1, "splits": []}'])
def test_foreign_summary_is_no_sample(tmp_path, content):
    small(tmp_path / "s")
    (tmp_path / "s" / "sample.json").write_text(content)
    assert read_summary(tmp_path / "s") is None


def test_no_folder_is_no_sample(tmp_path):
    assert read_summary(tmp_path / "none") is None
    assert read_summary(tmp_path) is None


def test_disk_full(tmp_path, monkeypatch):
    write = pq.ParquetWriter.write_table

    def full(self, table, **kwargs):
        if "user_id" in table.column_names:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, table, **kwargs)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(DataError, match=r"Cannot write the sample .*/s: No space left on device"):
        small(tmp_path / "s")
    assert not any(tmp_path.iterdir())


def test_interrupted(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(sample, "membership", interrupt)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path / "s")
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_no_write_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(DataError, match=r"Cannot write the sample .*Permission denied"):
            small(tmp_path / "s")
    finally:
        tmp_path.chmod(0o700)


def test_no_permission_is_said_with_the_path(tmp_path, monkeypatch):
    """What the test above shows of the file system, for when root runs the suite."""

    def refuse(path, *args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(DataError, match=r"Cannot write the sample .*/s: Permission denied \(.+\)"):
        small(tmp_path / "s")


def test_quiet_without_a_terminal(tmp_path, capfd):
    small(tmp_path / "s")
    assert capfd.readouterr() == ("", "")
