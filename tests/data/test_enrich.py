"""`data enrich`: what is joined is what a plain look-up gives, whatever the file; killed, it leaves whole files."""

import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from qin_zoo.cli import build_app
from qin_zoo.data.enrich import enrich
from qin_zoo.data.item_tensors import load_item_table
from qin_zoo.errors import DataError

ITEMS = 30


@pytest.fixture
def folder(tmp_path):
    """An item table, and a file about some of its items, in another order, with strangers."""
    g = np.random.default_rng(0)
    emb = g.random((ITEMS, 4)).astype(np.float32)
    pl.DataFrame({"item_id": np.arange(ITEMS), "item_emb_d128": emb.tolist()}).write_parquet(
        tmp_path / "item_info.parquet"
    )
    ids = np.r_[g.permutation(np.arange(1, 25)), 99, 1000]
    about = {
        "item_id": ids, "item_title": [f"title {i}" for i in ids], "item_tags": [[int(i), 7] for i in ids],
        "likes_level": ids % 11, "price": ids / 4, "txt": (ids[:, None] + np.arange(3.0)).tolist(),
    }  # fmt: skip
    frame = pl.DataFrame(about).with_columns(price=pl.when(pl.col("item_id") == 5).then(None).otherwise("price"))
    frame.write_parquet(tmp_path / "item_feature.parquet")
    frame.select("item_id", "likes_level", "price").write_csv(tmp_path / "about.csv")
    np.save(tmp_path / "vectors.npy", emb[:, :2])
    return tmp_path


def column(path, name):
    frame = pl.read_parquet(path)
    assert frame["item_id"].to_list() == list(range(ITEMS))
    return frame[name].to_list()


def test_numbers_by_default(folder):
    done = enrich(folder)
    out = folder / "item_info_enriched.parquet"
    assert [c.name for c in done.columns] == ["likes_level", "price"]
    assert column(out, "likes_level") == [i % 11 if 1 <= i < 25 else 0 for i in range(ITEMS)]
    assert column(out, "price") == [i / 4 if 1 <= i < 25 and i != 5 else 0 for i in range(ITEMS)]
    assert column(out, "item_emb_d128") == column(folder / "item_info.parquet", "item_emb_d128")
    assert (done.items, done.rows, done.strangers, done.left_out) == (29, 26, 2, ["item_title", "item_tags", "txt"])
    level, price = done.columns
    assert (level.found, level.missing, level.least, level.greatest) == (24, 5, 0, 10)
    assert (price.found, price.missing, price.known_before) == (23, 6, None)
    report = json.loads((folder / "item_info_enriched.json").read_text())
    assert report["columns"][0]["known_before"] is False
    assert str(folder) not in json.dumps(report)


def test_lists_and_vectors_and_names(folder):
    done = enrich(folder, columns=["tags=item_tags", "txt", "item_likes_level=likes_level"], output="x.parquet",
                  known_before=["item_likes_level"])  # fmt: skip
    assert [c.known_before for c in done.columns] == [None, None, True]
    assert "type: sequence, vocab_size: 25, source: item" in done.columns[0].feature
    types = {"tags": "sequence", "txt": "embedding", "item_likes_level": "categorical"}
    found = load_item_table(folder / "x.parquet", {name: {"type": kind} for name, kind in types.items()})
    known = np.arange(ITEMS)[:, None] * [[1] if 1 <= i < 25 else [0] for i in range(ITEMS)]
    np.testing.assert_array_equal(found["txt"], np.where(known > 0, known + np.arange(3.0), 0))
    np.testing.assert_array_equal(found["tags"], np.where(known > 0, np.c_[np.arange(ITEMS), [7] * ITEMS], 0))


def test_csv_and_npy(folder):
    assert column(enrich(folder, "about.csv", output="c.parquet").path, "price")[4] == 1.0
    done = enrich(folder, "vectors.npy", ["image"], output="n.parquet")
    expected = np.load(folder / "vectors.npy")
    expected[0] = 0
    np.testing.assert_array_equal(column(done.path, "image"), expected)
    assert (done.columns[0].found, done.strangers) == (29, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": ["item_title"]}, "expected numbers"),
        ({"columns": ["likes"]}, "expected a column 'likes'.*Did you mean 'likes_level'"),
        ({"columns": ["item_emb_d128=price"]}, "the column exists"),
        ({"source": "nothing.parquet"}, "nothing.parquet"),
        ({"id_column": "price"}, "expected whole numbers"),
        ({"known_before": ["views"]}, "--known-before views"),
        ({"output": "item_info.parquet"}, "exists"),
        ({"source": "twice.csv"}, "item 3 comes more than once"),
        ({"source": "short.npy"}, "30 rows"),
        ({"source": "nan.csv"}, "finite"),
    ],
)
def test_refused(folder, arguments, message):
    (folder / "twice.csv").write_text("item_id,x\n3,1\n3,2\n")
    (folder / "nan.csv").write_text("item_id,x\n3,1.5\n4,NaN\n")
    np.save(folder / "short.npy", np.zeros(7))
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(DataError, match=message):
        enrich(folder, **arguments)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_decimals_are_numbers(folder):
    """As databases write what they have summed."""
    numbers = pl.read_parquet(folder / "item_feature.parquet").select("item_id", "price")
    numbers.cast({"price": pl.Decimal(20, 2)}).write_parquet(folder / "item_feature.parquet")
    enrich(folder)
    found = column(folder / "item_info_enriched.parquet", "price")
    assert found == [i / 4 if 1 <= i < 25 and i != 5 else 0 for i in range(ITEMS)]


def test_files_that_would_leave_items_without_a_value(folder):
    """Rows that a quote within a field would hide, where that column is not read; and no rows at all."""
    about = pl.read_csv(folder / "about.csv")
    lines, tv = (folder / "about.csv").read_text().splitlines(), '27" tv'
    (folder / "about.csv").write_text("".join(f'{line},{tv if n else "note"}\n' for n, line in enumerate(lines)))
    about.head(0).write_parquet(folder / "none.parquet")
    for name, message in (("about.csv", "line 2: expected quotes"), ("none.parquet", "one row")):
        with pytest.raises(DataError, match=message):
            enrich(folder, name)
    assert not (folder / "item_info_enriched.parquet").exists()


def test_killed_and_repeated(folder):
    """Half of the file is on the disk when the process is killed."""
    script = (
        "import os, signal, sys, pyarrow.parquet as pq\n"
        "def half(table, path, **options):\n"
        "    open(path, 'wb').write(b'PAR1' * 1000)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "pq.write_table = half\n"
        "from qin_zoo.data.enrich import enrich\n"
        "enrich(sys.argv[1])\n"
    )
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert subprocess.run([sys.executable, "-c", script, str(folder)]).returncode == -9
    assert {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")} == before
    result = CliRunner().invoke(build_app(), ["data", "enrich", str(folder)])
    assert result.exit_code == 0, result.output
    assert "WARNING: likes_level: by the name, counted over a log" in result.output
    assert "likes_level, active: True, dtype: int, type: categorical, vocab_size: 11, source: item}" in result.output
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert column(folder / "item_info_enriched.parquet", "likes_level")[24] == 2
