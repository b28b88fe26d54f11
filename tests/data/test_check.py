"""`qin-zoo data check`, `stats` and `head`: the command line, the page and the look at single files."""

import re

import h5py
import numpy as np
import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from qin_zoo.cli.check import check, head, stats
from qin_zoo.data.check import check_folder
from qin_zoo.data.check.fix import fix_folder
from qin_zoo.data.check.look import abbreviated, column_stats, first_rows
from qin_zoo.data.check.page import split_figures, write_page
from qin_zoo.data.check.tables import combined, matrix_hash
from qin_zoo.data.sample import write_sample
from qin_zoo.errors import DataError

app = typer.Typer()
for command in (check, stats, head):
    app.command()(command)


def run(*args):
    return CliRunner().invoke(app, [str(a) for a in args], env={"COLUMNS": "160"})


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check") / "sample"
    write_sample(folder, 1500, 200, 3, embedding_dim=8)
    return folder


@pytest.fixture
def faulty(sample, tmp_path):
    """The sample with an unknown item, duplicates and a broken embedding."""
    folder = tmp_path / "faulty"
    folder.mkdir()
    for file in ("train", "valid", "test", "item_info"):
        (folder / f"{file}.parquet").write_bytes((sample / f"{file}.parquet").read_bytes())
    train = pl.read_parquet(folder / "train.parquet")
    train = pl.concat([train, train[100:150]])
    wrong = pl.when(pl.int_range(pl.len()) == 7).then(5000).otherwise(pl.col("item_id")).alias("item_id")
    train.with_columns(wrong).write_parquet(folder / "train.parquet")
    items = pl.read_parquet(folder / "item_info.parquet")
    vectors = items["item_emb_d8"].to_list()
    vectors[9][2] = float("nan")
    series = pl.Series("item_emb_d8", vectors, pl.List(pl.Float32))
    items.with_columns(series).write_parquet(folder / "item_info.parquet")
    return folder


@pytest.mark.parametrize("seed", [1, 2])
def test_the_sample_raises_no_alarm(tmp_path, seed):
    write_sample(tmp_path / "s", 400, 60, seed)
    assert [f for f in check_folder(tmp_path / "s").findings if f.severity != "note"] == []


def test_statistics_are_those_of_the_files(sample):
    stats = check_folder(sample).statistics
    train, valid = (pl.read_parquet(sample / f"{n}.parquet") for n in ("train", "valid"))
    lengths = train["item_seq"].list.eval(pl.element() > 0).list.sum()
    got = {heading: figure for heading, (figure, _) in stats.splits["train"].items()}
    counts = (train.height, train["user_id"].n_unique(), train["item_id"].n_unique())
    assert (got["rows"], got["users"], got["items as target"]) == counts
    assert got["click rate"] == pytest.approx(train["label"].mean())
    assert [got[f"history, {which}"] for which in ("least", "median", "mean", "greatest")] == pytest.approx(
        [lengths.min(), lengths.median(), lengths.mean(), lengths.max()]
    )
    quartiles = [got["history, quarter"], got["history, three quarters"]]
    assert quartiles == [lengths.quantile(q, "linear") for q in (0.25, 0.75)]
    users = train.group_by("user_id").agg(pl.len(), pl.col("label").sum()).sort("len", descending=True)
    top = users.head(-(-users.height // 100))
    assert got["rows of the top 1% of users"] == pytest.approx(top["len"].sum() / train.height)
    rows = users["len"].cum_sum()
    half = got["users with half of the rows"]
    assert rows[half - 1] >= train.height / 2 > (rows[half - 2] if half > 1 else 0)
    assert got["rows without history"] == pytest.approx((lengths == 0).mean())
    inside = train.select(pl.col("item_seq").list.contains(pl.col("item_id")))["item_seq"]
    assert got["target in its history"] == pytest.approx(inside.mean())
    cold = ~valid["item_id"].is_in(train["item_id"].unique().implode())
    assert stats.splits["valid"]["rows of cold items"][0] == pytest.approx(cold.mean())
    assert stats.splits["valid"]["rows of cold users"][0] == 1
    assert np.isnan(stats.splits["test"]["click rate"][0])
    norms = np.linalg.norm(np.stack(pl.read_parquet(sample / "item_info.parquet")["item_emb_d8"][1:].to_list()), axis=1)
    assert stats.vectors["item_emb_d8"].norms == pytest.approx(
        (norms.min(), np.median(norms), norms.mean(), norms.max()), rel=1e-5
    )
    assert stats.lengths["train"].sum() == stats.held.sum() == train.height
    assert (stats.per_user * np.arange(len(stats.per_user))).sum() == train.height
    assert sum(rows for _, _, rows in stats.by_popularity) == sum(rows for _, _, rows in stats.by_level) == train.height


def test_rows_of_heavy_users_are_told(tmp_path):
    """250 users with two rows each and three with 500: a hundredth of them, rounded up, has 1500 of 2000."""
    write_sample(tmp_path / "s", 2000, 60, 1)
    train = pl.read_parquet(tmp_path / "s/train.parquet").with_row_index()
    train = train.with_columns(
        user_id=pl.when(pl.col("index") < 1500).then(pl.col("index") // 500).otherwise(1000 + pl.col("index") // 2),
        label=(pl.col("index") % 4 == 0).cast(train["label"].dtype) * (pl.col("index") < 1600),
    )
    train.drop("index").write_parquet(tmp_path / "s/train.parquet")
    report = check_folder(tmp_path / "s")
    got = {heading: cells[0] for heading, cells in split_figures(report)}
    of_few = ("users", "rows of the top 1% of users", "clicks of the top 1% of users", "users with half of the rows")
    assert [got[heading] for heading in of_few] == ["253", "75.00%", "93.75%", "2"]


def test_check_prints_and_says_by_its_status(sample, faulty):
    result = run("check", sample)
    assert result.exit_code == 0, result.output
    assert "no errors, no warnings" in result.output
    result = run("check", faulty)
    assert result.exit_code == 1
    for code in ("unknown-item", "broken-embedding", "duplicate-rows"):
        assert code in result.output
    assert "2 errors, 1 warning" in result.output


def test_warnings_alone_leave_the_status_at_0(sample, faulty):
    (faulty / "item_info.parquet").write_bytes((sample / "item_info.parquet").read_bytes())
    pl.read_parquet(faulty / "train.parquet").filter(pl.col("item_id") < 5000).write_parquet(faulty / "train.parquet")
    result = run("check", faulty)
    assert result.exit_code == 0
    assert "no errors, 1 warning" in result.output


def test_fix_prints_what_it_did(faulty, tmp_path):
    result = run("check", faulty, "--fix", tmp_path / "out")
    assert result.exit_code == 1  # of the folder that was checked
    assert "train.parquet: rows left out: wrong values: 1" in result.output
    assert "train.parquet: rows left out: duplicates: 50" in result.output
    assert "broken embeddings replaced by the mean: 1" in result.output
    assert run("check", tmp_path / "out").exit_code == 0


def test_fix_copies_what_needs_no_change(sample, tmp_path):
    mended = fix_folder(check_folder(sample), tmp_path / "out")
    assert not [what for file, what, _ in mended.changes if file == "item_info.parquet"]
    assert (tmp_path / "out" / "item_info.parquet").read_bytes() == (sample / "item_info.parquet").read_bytes()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        ["train.parquet", "valid.parquet", "test.parquet", "item_info.parquet"]
    )


def test_page_asks_for_nothing_from_elsewhere(faulty, tmp_path):
    page = tmp_path / "check.html"
    assert run("check", faulty, "--html", page).exit_code == 1
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|<script|<link|<img|src=", text)
    assert set(re.findall(r'href="(.)', text)) <= {"#"}
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert text.count("<svg") == text.count("<figure>") == 7
    ids = re.findall(r'id="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"', text)) | set(re.findall(r"url\(#([^)]*)\)", text)) <= set(ids)
    for code in ("unknown-item", "broken-embedding", "duplicate-rows"):
        assert f"<code>{code}</code>" in text


def test_page_escapes_what_files_say(sample, tmp_path):
    folder = tmp_path / "<b>&x"
    folder.mkdir()
    train = pl.read_parquet(sample / "train.parquet").rename({"label": "<script>alert(1)</script>"})
    train.write_parquet(folder / "train.parquet")
    write_page(check_folder(folder), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "&lt;b&gt;&amp;x" in text
    assert run("check", folder).exit_code == 1


@pytest.mark.parametrize("make", ["missing", "empty", "file"])
def test_check_refuses_what_is_no_dataset(tmp_path, make):
    place = tmp_path / "x"
    if make == "empty":
        place.mkdir()
    elif make == "file":
        place.write_text("x")
    result = run("check", place)
    assert isinstance(result.exception, DataError)
    assert "expected a folder with train.parquet" in str(result.exception)


def test_stats_and_head_of_parquet(sample):
    found = {c.name: c for c in column_stats(sample / "train.parquet")}
    train = pl.read_parquet(sample / "train.parquet")
    user, past = found["user_id"], found["item_seq"]
    assert (user.low, user.high, user.distinct) == (1, train["user_id"].max(), train["user_id"].n_unique())
    assert user.mean == pytest.approx(train["user_id"].mean())
    assert past.lengths == (100, 100)
    assert past.mean == pytest.approx(train["item_seq"].explode(empty_as_null=False).mean())
    result = run("stats", sample)
    assert result.exit_code == 0
    assert all(f"{n}.parquet" in result.output for n in ("train", "valid", "test", "item_info"))
    result = run("head", sample / "train.parquet", "-n", 3)
    assert "3 of 1,500 rows" in " ".join(result.output.split())
    assert "(100)" in result.output
    names, rows, total = first_rows(sample / "train.parquet", 2)
    assert (names, len(rows), total) == (train.columns, 2, 1500)
    assert rows[1][0] == train["user_id"][1]


def test_stats_count_nulls_and_texts(tmp_path):
    frame = {"a": [1, None, 3], "t": ["x", "y", "y"], "l": [[1], None, [2, 3]], "d": [{"k": 1}] * 3, "n": [None] * 3}
    pl.DataFrame(frame).write_parquet(tmp_path / "f.parquet")
    a, t, lists, d, n = column_stats(tmp_path / "f.parquet")
    assert (a.nulls, a.low, a.high, a.mean, a.distinct) == (1, 1, 3, 2, 2)
    assert (t.low, t.high, t.distinct, t.mean) == ("x", "y", 2, None)
    assert (lists.nulls, lists.low, lists.high, lists.lengths) == (1, 1, 3, (0, 2))
    assert d.type.startswith("struct")
    assert (n.nulls, n.distinct) == (3, 0)
    numbers = [1.0, np.nan, 3.0, np.nan, 8.0]
    pl.DataFrame({"x": numbers}).write_parquet(tmp_path / "x.parquet")
    np.savez(tmp_path / "x.npz", x=numbers)
    for (x,) in (column_stats(tmp_path / "x.parquet"), column_stats(tmp_path / "x.npz")):
        assert (x.nulls, x.low, x.high, x.mean, x.distinct) == (2, 1, 8, 4, 3)
    assert run("stats", tmp_path / "f.parquet").exit_code == run("head", tmp_path / "f.parquet").exit_code == 0


def test_stats_and_head_of_arrays(tmp_path):
    matrix = np.arange(12, dtype=np.float32).reshape(4, 3)
    matrix[0, 0] = np.nan
    np.save(tmp_path / "a.npy", matrix)
    np.savez(tmp_path / "b.npz", m=matrix, v=np.array([1, 1, 2, 5, 7]), o=np.array([{}], dtype=object))
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["x/m"] = matrix
        file["t"] = [b"ab", b"c"]
        file["s"] = 3
    (one,) = column_stats(tmp_path / "a.npy")
    assert (one.rows, one.nulls, one.low, one.high, one.mean, one.lengths) == (4, 1, 1, 11, 6, (3, 3))
    stats = {c.name: c for c in column_stats(tmp_path / "b.npz")}
    assert (stats["v"].distinct, stats["v"].high) == (4, 7)
    assert stats["o"].type == "objects, not read"
    assert {c.name for c in column_stats(tmp_path / "c.h5")} == {"x/m", "t", "s"}
    names, rows, total = first_rows(tmp_path / "b.npz", 9)
    assert (names, total, rows[4][:2]) == (["m", "v", "o"], 5, [None, 7])
    for file in ("a.npy", "b.npz", "c.h5"):
        assert run("head", tmp_path / file).exit_code == 0
    assert run("stats", tmp_path).exit_code == 0


@pytest.mark.parametrize("name", ["x.parquet", "x.npz", "x.npy", "x.h5", "x.csv"])
@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n" * 30, None])
def test_stats_and_head_say_what_is_wrong_with_a_file(tmp_path, name, content):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    for command in ("stats", "head"):
        error = run(command, path).exception
        assert isinstance(error, DataError)
        assert str(path) in str(error)


def test_objects_are_never_unpickled(tmp_path):
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="pickle"):
        column_stats(tmp_path / "o.npy")


def test_stats_of_a_folder_without_data(tmp_path):
    assert "none" in str(run("stats", tmp_path).exception)


def test_long_values_are_abbreviated():
    assert abbreviated(list(range(100))) == "[0, 1, 2, …, 97, 98, 99] (100)"
    assert abbreviated([1, 2]) == "[1, 2]"
    assert abbreviated("x" * 100).endswith("…")
    assert abbreviated(0.123456) == "0.1235"


def test_hashes_tell_rows_apart_and_ignore_padding_in_front():
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 3, (5000, 8))
    same = len(np.unique(matrix, axis=0))
    assert len(np.unique(matrix_hash(matrix))) == same
    np.testing.assert_array_equal(matrix_hash(matrix), matrix_hash(np.pad(matrix, ((0, 0), (5, 0)))))
    wide = np.zeros((3, 9000), np.int64)
    wide[1, 0], wide[2, 4096] = 1, 1
    assert len(np.unique(matrix_hash(wide))) == 3
    pairs = rng.integers(0, 40, (5000, 2))
    assert len(np.unique(combined(*pairs.T))) == len(np.unique(pairs, axis=0))
