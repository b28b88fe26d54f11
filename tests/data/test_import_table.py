"""`data import table` on ugly tables: each with the rows that pandas or the page says, or one clear message."""

import gzip
import io
import json
from datetime import datetime, timedelta

import h5py
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from qin_zoo.cli import build_app, main
from qin_zoo.data.importers import ImportOptions, import_table
from qin_zoo.data.importers.description import Entry, read_description
from qin_zoo.data.importers.guess import describe
from qin_zoo.data.importers.own_files import OwnFile
from qin_zoo.data.importers.vectors import read_vectors
from qin_zoo.errors import DataError, QinZooError

START = 1_700_000_000
ROWS = [(f"u{n % 3}", f"sku-{n * 7 % 5}", START + 60 * n, n % 2) for n in range(20)]


def frame(rows=ROWS):
    return pd.DataFrame(rows, columns=["user_id", "item_id", "time", "click"])


def brought(folder, out, **options):
    """The import of a folder as it is guessed: summary, and (user, item, label) of all rows in their order."""
    description = describe([folder])
    assert description.doubts == ()
    summary = import_table(description, out, ImportOptions(**options))
    return summary, rows_of(out)


def rows_of(out):
    names = {
        f"{owner}_id": dict(pl.read_parquet(out / f"ids_{owner}.parquet").iter_rows()) for owner in ("user", "item")
    }
    parts = [pl.read_parquet(out / f"{split}.parquet") for split in ("train", "valid", "test")]
    rows = pl.concat([part.select("user_id", "item_id", "label") for part in parts]).rows()
    return [(str(names["user_id"][u]), str(names["item_id"][i]), label) for u, i, label in rows]


def plain(rows=ROWS):
    return [(u, i, c) for u, i, _, c in rows]


def said(summary, *words):
    """The one note that holds the words."""
    found = [note for note in summary.notes if all(word in note for word in words)]
    assert len(found) == 1, summary.notes
    return found[0]


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    frame().to_csv(folder / "log.csv", index=False)
    return folder


def test_mark_semicolons_latin_1_and_spaces_in_the_header(raw, tmp_path):
    """A file as Excel writes it in Europe."""
    text = frame().rename(columns={"item_id": " item_id "}).to_csv(index=False, sep=";")
    (raw / "log.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    items = "item_id;titel;preis\nsku-0;Stuhl, grün;12,50\nsku-1;Käse;1.003,00\nsku-2;€ Tasche;0,75\nsku-3;d;2,5\n"
    (raw / "products.csv").write_bytes(items.encode("cp1252"))
    summary, rows = brought(raw, tmp_path / "out")
    assert rows == plain()
    texts = pl.read_parquet(tmp_path / "out/item_text.parquet")
    assert texts["item_title"].to_list()[:3] == ["Stuhl, grün", "Käse", "€ Tasche"]
    price = pl.read_parquet(tmp_path / "out/item_info.parquet")["item_preis"].to_numpy()
    expected = pd.read_csv(io.StringIO(items), sep=";", decimal=",", thousands=".")["preis"]
    assert np.allclose(price[1:5], (expected - expected.mean()) / expected.std(ddof=0), atol=1e-6)
    assert price[5] == 0  # sku-4 is in the log alone: the mean
    assert said(summary, "products.csv", "1 of 5 items")
    assert said(summary, "products.csv: no text in UTF-8; read as Latin-1")


def test_ids_with_leading_zeros(raw, tmp_path):
    """Text that looks like numbers stays text, and 007 is not 7 where both are there."""
    rows = [(u, ("007", "7", "0100")[n % 3], t, c) for n, (u, _, t, c) in enumerate(ROWS)]
    frame(rows).to_csv(raw / "log.csv", index=False)
    assert brought(raw, tmp_path / "out")[1] == plain(rows)


def test_ids_as_floats_in_one_file(raw, tmp_path):
    """As pandas writes whole numbers beside a gap; the gap is a row without an id."""
    rows = [(u, 40 + n % 4, t, c) for n, (u, _, t, c) in enumerate(ROWS)]
    table = frame(rows)
    table["item_id"] = table["item_id"].astype(float)
    table.loc[5, "item_id"] = np.nan
    table.to_csv(raw / "log.csv", index=False)
    assert "42.0" in (raw / "log.csv").read_text()
    pd.DataFrame({"item_id": [40, 41, 42, 43], "kind": list("abab")}).to_parquet(raw / "items.parquet")
    summary, found = brought(raw, tmp_path / "out")
    assert found == [(u, str(i), c) for n, (u, i, _, c) in enumerate(rows) if n != 5]
    assert said(summary, "log.csv: 1 × no item (log.csv:7)")
    kinds = pl.read_parquet(tmp_path / "out/item_info.parquet")["item_kind"].to_list()
    assert kinds == [0, 1, 2, 1, 2]


@pytest.mark.parametrize("role", ["user_id", "item_id", "items"])
@pytest.mark.parametrize(("dtype", "digits"), [(pl.Float32, 24), (pl.Float64, 53)])
def test_ids_that_their_floats_do_not_hold(raw, tmp_path, role, dtype, digits):
    """The last that a float tells from the next one is read; of the next nobody knows which it has been."""
    (raw / "log.csv").unlink()
    for last in (2**digits - 1, 2**digits):
        ids = {"user_id": [1, 2, last], "item_id": [3, 4, last], "items": [3, 4, last]}
        ids = {name: pl.Series(v).cast(dtype if name == role else pl.Int64) for name, v in ids.items()}
        log = pl.DataFrame({"user_id": ids["user_id"], "item_id": ids["item_id"]})
        log = pl.concat([log] * 7).with_columns(time=START + pl.int_range(21), click=pl.int_range(21) % 2)
        log.write_parquet(raw / "log.parquet")
        pl.DataFrame({"item_id": ids["items"], "brand": ["a", "b", "a"]}).write_parquet(raw / "items.parquet")
        if last < 2**digits:
            assert import_table(describe([raw]), tmp_path / "out").items == 3
            continue
        file = "items.parquet, column 'item_id'" if role == "items" else f"log.parquet, column '{role}'"
        with pytest.raises(DataError, match=rf"{file}: '.*' has been a floating point number"):
            import_table(describe([raw]), tmp_path / "again")


@pytest.mark.parametrize("form", ["npy", "h5", "parquet"])
def test_ids_of_vectors_that_their_floats_do_not_hold(tmp_path, form):
    ids = np.array([1, 2**24 + 1], np.float32)
    file, place = ("v.h5", "ids") if form == "h5" else ("v.npy", f"ids.{form}")
    np.save(tmp_path / "v.npy", np.ones((2, 4)))
    np.save(tmp_path / "ids.npy", ids)
    pl.DataFrame({"item_id": ids}).write_parquet(tmp_path / "ids.parquet")
    with h5py.File(tmp_path / "v.h5", "w") as h5:
        h5["v"], h5["ids"] = np.ones((2, 4)), ids
    with pytest.raises(DataError, match=r"ids.*: '16777216\.0' has been a floating point number"):
        read_vectors(Entry((file,), "vectors", ids=place), tmp_path, [])


def test_seconds_and_milliseconds_mixed(raw, tmp_path):
    rows = [(u, i, t * 1000 if n % 4 == 1 else t, c) for n, (u, i, t, c) in enumerate(ROWS)]
    frame(rows).sample(frac=1, random_state=0).to_csv(raw / "log.csv", index=False)
    summary, found = brought(raw, tmp_path / "out")
    assert found == plain()
    assert ("log.csv", "time", "time (mixed)", "2023-11-14 22:13 to 2023-11-14 22:32") in summary.columns
    assert "15 in seconds, 5 in milliseconds" in describe([raw]).as_yaml()


def test_the_same_row_twice(raw, tmp_path):
    table = pd.concat([frame(), frame()[3:5]])
    table.to_csv(raw / "log.csv", index=False)
    summary, found = brought(raw, tmp_path / "out")
    assert found == [(r.user_id, r.item_id, r.click) for r in table.drop_duplicates().itertuples()]
    assert said(summary, "2 rows are the same as another")
    table = pd.concat([frame(), frame()[3:4].assign(click=0)])
    table.to_csv(raw / "log.csv", index=False)
    summary, found = brought(raw, tmp_path / "again")
    assert len(found) == 21
    assert said(summary, "1 rows have user, item and time of another row")


def test_an_item_that_no_table_describes(raw, tmp_path):
    pd.DataFrame({"item_id": ["sku-1", "sku-2", "sku-9"], "brand": ["a", "b", "a"]}).to_csv(
        raw / "items.csv", index=False
    )
    summary, found = brought(raw, tmp_path / "out")
    assert found == plain()
    assert said(summary, "items.csv: 3 of 5 items of the log are not there")
    items = dict(pl.read_parquet(tmp_path / "out/ids_item.parquet").select("original_id", "item_id").iter_rows())
    brand = pl.read_parquet(tmp_path / "out/item_info.parquet")["item_brand"]
    assert [brand[items[name]] for name in ("sku-1", "sku-2", "sku-9", "sku-0")] == [1, 2, 1, 0]


def test_empty_labels(raw, tmp_path):
    """A row without a label is no row without a click."""
    table = frame()
    table["click"] = table["click"].astype("Int64")
    table.loc[[2, 6], "click"] = pd.NA
    table.to_csv(raw / "log.csv", index=False)
    summary, found = brought(raw, tmp_path / "out")
    assert found == [row for n, row in enumerate(plain()) if n not in (2, 6)]
    assert said(summary, "log.csv: 2 × no label in 'click' (log.csv:4, log.csv:8)")
    aside = pd.read_csv(tmp_path / "out/set_aside.csv")
    assert aside[["file", "line"]].values.tolist() == [["log.csv", 4], ["log.csv", 8]]
    assert aside["row"][0].startswith("u2,sku-4")


def test_labels_of_minus_one_and_one(raw, tmp_path):
    frame([(u, i, t, 2 * c - 1) for u, i, t, c in ROWS]).to_csv(raw / "log.csv", index=False)
    assert brought(raw, tmp_path / "out")[1] == plain()
    assert json.loads((tmp_path / "out/import.json").read_text())["options"]["label"] == "click>0"


def test_a_quoted_text_over_two_lines_and_a_line_too_long(raw, tmp_path):
    """Places are those of an editor, behind lines that are one row."""
    lines = [f"{u},{i},{t},{c}" for u, i, t, c in ROWS]
    lines[4] += ",oops"
    lines[9] = "u1,sku-1,yesterday,1"
    head = 'user_id,item_id,time,click\n"u\n0",sku-9,1699999999,1\n'
    (raw / "log.csv").write_text(head + "\n".join(lines) + "\n")
    table = pd.DataFrame({"item_id": ["sku-1", "sku-2", "sku-3"], "title": ['a "b"', "c\nd", "e, f"]})
    table.to_csv(raw / "items.csv", index=False)
    summary, found = brought(raw, tmp_path / "out")
    assert found == [("u\n0", "sku-9", 1)] + [row for n, row in enumerate(plain()) if n not in (4, 9)]
    assert said(summary, "log.csv: 1 × more than 4 values (log.csv:8)")
    assert said(summary, "log.csv: 1 × no time in 'time' (seconds) (log.csv:13)")
    assert pl.read_parquet(tmp_path / "out/item_text.parquet")["item_title"].to_list() == table["title"].to_list()


def test_lists_as_json_with_separators_and_native(raw, tmp_path):
    ids = [f"sku-{n}" for n in range(5)]
    words = [["red", "new"], ["blue"], [], ["new", "old, used"], ["red"]]
    pd.DataFrame(
        {
            "item_id": ids,
            "tags": [json.dumps(w) for w in words],
            "genres": ["a|b", "b", "", "c | a", "a"],
            "repr": [str(w) for w in words],
            "broken": ['["x"]', "[x", '["y"]', '["x"]', '["y"]'],
        }
    ).to_csv(raw / "items.csv", index=False)
    pd.DataFrame({"item_id": ids, "native": words}).to_parquet(raw / "more_items.parquet")
    description = describe([raw])
    roles = {name: str(column) for e in description.about("items") for name, column in e.columns.items()}
    assert roles["tags"] == roles["repr"] == "list (json)"
    assert roles["genres"] == "list (|)"
    assert roles["native"] == "list"
    content = description.as_json()
    (entry,) = (e for e in content["files"] if "broken" in e.get("columns", {}))
    entry["columns"]["broken"] = "list (json)"
    summary = import_table(read_description(content, "x", raw), tmp_path / "out")
    info = pl.read_parquet(tmp_path / "out/item_info.parquet")
    vocabularies = json.loads((tmp_path / "out/vocabularies.json").read_text())

    def lists(name):
        return [[vocabularies[name][code - 1] for code in row if code] for row in info[name].to_list()[1:]]

    assert lists("item_tags") == lists("item_repr") == lists("item_native") == words
    assert lists("item_genres") == [["a", "b"], ["b"], [], ["c", "a"], ["a"]]
    assert said(summary, "items.csv: 1 × 'broken' is no list; taken as unknown (items.csv:3)")


def test_a_vector_of_the_wrong_length(raw, tmp_path):
    vectors = np.arange(20, dtype=float).reshape(5, 4).tolist()
    vectors[2] = vectors[2][:3]
    vectors[3][0] = float("nan")
    pd.DataFrame({"item_id": [f"sku-{n}" for n in range(5)], "image": vectors}).to_parquet(raw / "items.parquet")
    summary, _ = brought(raw, tmp_path / "out")
    found = np.array(pl.read_parquet(tmp_path / "out/item_feature.parquet")["image"].to_list())
    expected = np.zeros((6, 4))
    expected[[1, 2, 5]] = np.arange(20).reshape(5, 4)[[0, 1, 4]]
    assert np.array_equal(found, expected)
    assert said(summary, "2 × 'image' is no vector; taken as unknown (items.parquet:3, items.parquet:4)")


@pytest.mark.parametrize("form", ["npy", "rows", "h5", "bytes"])
def test_vectors_by_ones_own_ids(raw, tmp_path, form):
    """In another order than the items, one of them of an item that nobody met yet, and one item without."""
    ids = np.array(["sku-4", "sku-0", "strange", "sku-2", "sku-1"])
    vectors = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    if form == "npy":
        np.save(raw / "clip.npy", vectors)
        (raw / "clip_ids.txt").write_text("item_id\n" + "\n".join(ids) + "\n")
    elif form == "rows":
        ids[2] = "sku-3"
        np.save(raw / "clip.npy", vectors)
        pd.DataFrame({"item_id": ids, "brand": list("ababa")}).to_csv(raw / "items.csv", index=False)
    else:
        with h5py.File(raw / "clip.h5", "w") as file:
            file["vectors"] = vectors
            file["ids"] = ids.astype("S") if form == "bytes" else ids.astype(object)
    summary, found = brought(raw, tmp_path / "out")
    assert found == plain()
    numbers = dict(pl.read_parquet(tmp_path / "out/ids_item.parquet").select("original_id", "item_id").iter_rows())
    table = np.array(pl.read_parquet(tmp_path / "out/item_feature.parquet")["clip"].to_list())
    for name, vector in zip(ids, vectors):
        assert np.array_equal(table[numbers[name]], vector)
    assert summary.items == (5 if form == "rows" else 6)
    assert form == "rows" or not table[numbers["sku-3"]].any()


def test_vectors_of_no_item(raw, tmp_path):
    """Where a table says what the items are, others are left out and counted."""
    np.save(raw / "clip.npy", np.ones((3, 4), np.float32))
    np.save(raw / "clip_ids.npy", np.array(["sku-1", "stranger", "sku-2"]))
    pd.DataFrame({"item_id": [f"sku-{n}" for n in range(5)], "brand": list("ababa")}).to_csv(
        raw / "items.csv", index=False
    )
    summary, _ = brought(raw, tmp_path / "out")
    assert summary.items == 5
    assert said(summary, "clip.npy: 1 of 3 ids are no items")
    table = np.array(pl.read_parquet(tmp_path / "out/item_feature.parquet")["clip"].to_list())
    assert table.sum(1).tolist() == [0, 0, 4, 4, 0, 0]


def test_a_doubled_header(raw, tmp_path):
    text = (raw / "log.csv").read_text().replace("user_id,item_id,time,click", "user_id,item_id,item_id ,click")
    (raw / "log.csv").write_text(text)
    with pytest.raises(DataError, match=r"log.csv: expected columns of different names, found 'item_id' 2 times"):
        brought(raw, tmp_path / "out")


def test_an_item_that_is_described_twice(raw, tmp_path):
    """The same row twice is one; another description of one item is set aside."""
    (raw / "items.csv").write_text("item_id,brand\nsku-0,a\nsku-1,b\nsku-1,b\nsku-0,c\nsku-2,a\n")
    summary, _ = brought(raw, tmp_path / "out")
    assert said(summary, "items.csv: 1 × 'item_id' is described before; the first row is taken (items.csv:5)")
    assert said(summary, "items.csv: 1 rows are there twice")
    assert pl.read_parquet(tmp_path / "out/item_info.parquet")["item_brand"].to_list() == [0, 1, 2, 1, 0, 0]


@pytest.mark.parametrize("content", ["", "\n\n", "item_id,brand\n"])
def test_an_empty_file(raw, tmp_path, content):
    (raw / "items.csv").write_text(content)
    with pytest.raises(DataError, match=r"items.csv: (expected .* found|the file is empty)"):
        brought(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_columns(raw, tmp_path):
    """Of the description, of the log, and of the log's user."""
    content = describe([raw]).as_json()
    frame().rename(columns={"item_id": "item"}).to_csv(raw / "log.csv", index=False)
    with pytest.raises(DataError, match=r"log.csv: expected a column 'item_id'.*Did you mean 'item'"):
        import_table(read_description(content, "x.yaml", raw), tmp_path / "out")
    frame().drop(columns="user_id").to_csv(raw / "log.csv", index=False)
    description = describe([raw])
    assert (
        "which of its columns are user and item? It may be log.csv, with item_id, time, click" in description.doubts[0]
    )
    with pytest.raises(DataError, match=r"log.csv\): expected one column as user, found none"):
        read_description(description.as_json(), "x.yaml", raw)


def test_names_that_say_little(raw, tmp_path):
    """Ids by their values, a time by its form, numbers beside N/A, and a file that is of no use."""
    table = frame().rename(columns={"user_id": "visitor_ref_id", "item_id": "parent_asin", "time": "viewed_on"})
    table["viewed_on"] = pd.to_datetime(table["viewed_on"], unit="s").dt.strftime("%Y-%m-%d %H:%M:%S")
    table.to_csv(raw / "log.csv", index=False)
    pd.DataFrame({"ref": [f"sku-{n}" for n in range(5)], "price": ["1.5", "N/A", "2.5", "-", "3.5"]}).to_csv(
        raw / "assortment.csv", index=False, sep="\t"
    )
    (raw / "notes.txt").write_text("what\nnothing\n")
    summary, found = brought(raw, tmp_path / "out")
    assert found == plain()
    assert said(summary, "notes.txt is left out")
    price = pl.read_parquet(tmp_path / "out/item_info.parquet")["item_price"].to_numpy()
    assert np.allclose(price[1:], np.array([-1, 0, 0, 0, 1]) * np.sqrt(1.5), atol=1e-6)


def test_dates_with_zones_are_those_of_pandas(raw, tmp_path):
    times = [pd.Timestamp(t, unit="s", tz="UTC") for _, _, t, _ in ROWS]
    text = [
        (t.tz_convert("Asia/Tokyo") if n % 3 == 0 else t).isoformat().replace("+00:00", "Z" if n % 3 == 1 else "+00:00")
        for n, t in enumerate(times)
    ]
    frame([(u, i, t, c) for (u, i, _, c), t in zip(ROWS, text)])[::-1].to_csv(raw / "log.csv", index=False)
    assert brought(raw, tmp_path / "out")[1] == plain()
    kept = pl.read_parquet(tmp_path / "out/log.parquet")["time"].to_list()
    assert kept[::-1] == pd.to_datetime(text, utc=True, format="ISO8601").as_unit("ns").astype("int64").tolist()


def test_days_that_may_be_months_are_asked_for(raw, tmp_path):
    frame([(u, i, f"0{1 + n % 9}/03/2024", c) for n, (u, i, _, c) in enumerate(ROWS)]).to_csv(
        raw / "log.csv", index=False
    )
    (doubt,) = describe([raw]).doubts
    assert "%d/%m/%Y or %m/%d/%Y" in doubt
    result = CliRunner().invoke(build_app(), ["data", "import", "table", str(raw), str(tmp_path / "out")])
    assert isinstance(result.exception, QinZooError)
    assert doubt in str(result.exception)


@pytest.mark.parametrize(
    ("column", "values", "doubt"),
    [("stars", [1, 3, 5, 4], "stars"), ("opened", [0, 1], "opened"), ("click", ["yes", "no"], "sounds like clicks")],
)
def test_labels_that_nobody_can_guess_are_asked_for(raw, column, values, doubt):
    table = frame().drop(columns="click")
    table[column] = [values[n % len(values)] for n in range(len(table))]
    table.to_csv(raw / "log.csv", index=False)
    assert doubt in describe([raw]).doubts[0]


def as_text(table=None, **options):
    return (frame() if table is None else table).to_csv(index=False, **options)


NO_TABLES = {
    "utf-16": (as_text().encode("utf-16"), "found UTF-16. Convert it"),
    "utf-16-le": (as_text().encode("utf-16-le"), "or UTF-16. Convert it"),
    "parquet": (frame().to_parquet(), "found parquet. Call it .parquet"),
    "gzip": (gzip.compress(as_text().encode()), "found gzip. Unpack it"),
    "carriage returns": (as_text().replace("\n", "\r").encode(), "a carriage return alone"),
    "a comment": (b"# of today\n" + as_text().encode(), "line 2: expected 1 value, as many as .*# of today"),
    "sep=": (b"sep=;\n" + as_text(sep=";").encode(), "line 2: expected 2 values.*found more, as in 21 of 21 rows"),
    "a comma behind": (as_text().replace("\n", ",\n").replace("click,", "click").encode(), "4 values.*20 of 20 rows"),
    "an open quote": (as_text().replace("sku-0", '"sku-0', 1).encode(), "line 2: .* quotes that are closed"),
    "text behind a quote": (as_text().replace("sku-2", '"sku-2" x', 1).encode(), "line 3: .*within quotes twice"),
    "two encodings": (
        (as_text() + "u1,é,1,1\n").encode() + b"u1,\xe9,2,1\n",
        "line 23: expected text in UTF-8, found other bytes. 1 other lines",
    ),
    "no name": (as_text().replace("item_id", "").replace("click", "column 2").encode(), "found 'column 2' 2 times"),
}


@pytest.mark.parametrize(("content", "message"), NO_TABLES.values(), ids=NO_TABLES)
def test_a_file_that_is_no_table(raw, tmp_path, content, message):
    (raw / "log.csv").write_bytes(content)
    with pytest.raises(DataError, match=rf"(?s)log.csv.*{message}"):
        brought(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("separator", ["::", " ", "^"])
def test_a_separator_that_is_none(raw, separator):
    """One column called user_id::item_id holds neither."""
    (raw / "log.csv").write_text(as_text().replace(",", separator))
    assert "with commas, semicolons, tabs or bars between them" in describe([raw]).doubts[0]


def test_quotes_within_values_and_long_values_are_those_of_pandas(raw, tmp_path):
    """An inch is no quote; one value is longer than csv takes by itself; a name stands on two lines."""
    titles = ['27" screen', "x" * 200_000, 'a 5" b', "plain", '"both, sides"']
    lines = [f"sku-{n},{title},{n % 2}" for n, title in enumerate(titles)]
    text = 'item_id,title,"in\nstock"\n' + "\n".join([*lines[:2], "sku-9,too,many,1", *lines[2:]]) + "\n"
    (raw / "items.csv").write_text(text)
    summary, found = brought(raw, tmp_path / "out")
    assert found == plain()
    expected = pd.read_csv(io.StringIO(text), on_bad_lines="skip")
    assert pl.read_parquet(tmp_path / "out/item_text.parquet")["item_title"].to_list() == expected["title"].to_list()
    vocabulary = json.loads((tmp_path / "out/vocabularies.json").read_text())["item_in_stock"]
    info = pl.read_parquet(tmp_path / "out/item_info.parquet")["item_in_stock"]
    assert [int(vocabulary[code - 1]) for code in info[1:]] == expected["in\nstock"].to_list()
    assert said(summary, "items.csv: 1 × more than 3 values (items.csv:5)")


def test_parts_with_their_columns_in_another_order(raw, tmp_path):
    frame()[:9].to_csv(raw / "log.csv", index=False)
    frame()[9:][["click", "time", "item_id", "user_id"]].to_csv(raw / "log-2.csv", index=False, sep=";")
    (raw / "items.csv.gz").write_bytes(b"")
    (raw / "more").mkdir()
    summary, found = brought(raw, tmp_path / "out")
    assert found == plain()
    assert said(summary, "Not read", "items.csv.gz, more.")


def test_parts_without_times_are_in_the_order_of_their_numbers(tmp_path):
    """part-10 is behind part-9: of a user's rows, those of the last part are the last."""
    (raw := tmp_path / "raw").mkdir()
    for n in range(11):
        (raw / f"part-{n}.csv").write_text(f"user_id,item_id,click\nu,i{n},{n % 2}\n")
    for sources in ([raw], sorted(raw.iterdir())):
        (log,) = describe(sources).entries
        assert list(log.files) == [f"part-{n}.csv" for n in range(11)]
    assert brought(raw, tmp_path / "out")[1] == [("u", f"i{n}", n % 2) for n in range(11)]


@pytest.mark.parametrize("offset", ["+05:30", "-03:00"])
@pytest.mark.parametrize("unit", ["s", "us", "ns"])
def test_offsets_are_no_zones_for_polars(raw, tmp_path, offset, unit):
    """As pandas stores what it reads of 2024-01-01T00:00:00+05:30."""
    times = pd.to_datetime(frame()["time"], unit="s", utc=True).dt.tz_convert(f"UTC{offset}").dt.as_unit(unit)
    (raw / "log.csv").unlink()
    frame().assign(time=times)[::-1].to_parquet(raw / "log.parquet")
    assert brought(raw, tmp_path / "out")[1] == plain()
    kept = pl.read_parquet(tmp_path / "out/log.parquet")["time"]
    assert kept.to_list() == [t * 10**9 for *_, t, _ in sorted(ROWS, key=lambda row: -row[2])]


def test_indexes_that_pandas_keeps_beside_the_columns(raw, tmp_path):
    """Equally spaced ids or times are no column of the file; of another number of rows they are not of these rows."""
    (raw / "log.csv").unlink()
    rows = [(u, int(i.removeprefix("sku-")), t, c) for u, i, t, c in ROWS]
    frame(rows)[::-1].set_index("time").to_parquet(raw / "log.parquet")
    items = pd.DataFrame({"item_id": np.arange(5), "kind": list("abcab")}).set_index("item_id")
    items.to_parquet(raw / "items.parquet")
    assert pq.read_schema(raw / "log.parquet").names == ["user_id", "item_id", "click"]
    assert brought(raw, tmp_path / "out")[1] == [(u, str(i), c) for u, i, _, c in rows]
    assert pl.read_parquet(tmp_path / "out/item_info.parquet")["item_kind"].to_list() == [0, 1, 2, 3, 1, 2]
    part = pq.read_table(raw / "items.parquet").slice(0, 3)
    pq.write_table(part, raw / "items.parquet")
    assert OwnFile(raw / "items.parquet").names == ["kind"]


def test_a_type_that_polars_has_not(raw):
    tags = pa.array([[1]], pa.list_view(pa.int64()))
    pq.write_table(pa.table({"item_id": ["a"], "tags": tags}), raw / "items.parquet")
    with pytest.raises(DataError, match=r"items\.parquet: cannot be read"):
        describe([raw])


def test_zones_as_databases_write_them_and_decimal_commas(raw, tmp_path):
    """+01 of Postgres; 1700000000,5 of a spreadsheet."""
    times = pd.to_datetime(frame()["time"], unit="s")
    for name, text in (
        ("a", [f"{t + pd.Timedelta(hours=n % 3)}{('+00', '+01', '+02')[n % 3]}" for n, t in enumerate(times)]),
        ("b", [f"{t},{n % 10}" for n, t in enumerate(frame()["time"])]),
    ):
        frame().assign(time=text)[::-1].to_csv(raw / "log.csv", index=False, sep=";")
        assert brought(raw, tmp_path / name)[1] == plain()


@pytest.mark.parametrize("form", ["%Y-%m-%d %H:%M:%S", "%d.%m.%Y %H:%M:%S", "parquet"])
@pytest.mark.parametrize("strange", [datetime(9999, 12, 31), datetime(1, 1, 1)])
def test_dates_that_stand_for_none(raw, tmp_path, form, strange):
    """Beyond what nanoseconds hold, where they would come round at the other end."""
    times = pd.to_datetime(frame()["time"], unit="s").dt.to_pydatetime().tolist()
    times[4] = strange
    if form == "parquet":
        (raw / "log.csv").unlink()
        table = pl.from_pandas(frame()).with_columns(time=pl.Series(times, dtype=pl.Datetime("us")))
        table.write_parquet(raw / "log.parquet")
    else:
        frame().assign(time=[f"{t:{form}}".rjust(19, "0") for t in times]).to_csv(raw / "log.csv", index=False)
    summary, found = brought(raw, tmp_path / "out")
    assert found == [row for n, row in enumerate(plain()) if n != 4]
    assert said(summary, "1 × no time in 'time'")


@pytest.mark.parametrize(
    ("column", "values", "doubt"),
    [
        ("click", [None], "sounds like clicks and holds nothing"),
        ("click", ["nan"], "sounds like clicks and holds nan"),
        ("rating", ["good", "bad"], "sounds like a rating and holds bad, good"),
        ("rating", [*range(5), "n/a", 5, 4, 3, 2, 1], "'rating>=4' is taken; the greatest is 5"),
        ("rating", [*range(1, 20), "inf"], "'rating>=15' is taken; the greatest is 19"),
    ],
)
def test_labels_that_hold_no_numbers(raw, column, values, doubt):
    table = frame().drop(columns="click")
    table[column] = [values[n % len(values)] for n in range(len(table))]
    table.to_csv(raw / "log.csv", index=False)
    (found,) = describe([raw]).doubts
    assert doubt in found


def test_a_rule_of_the_command_line_decides(raw, tmp_path, capsys):
    frame().rename(columns={"click": "rating"}).assign(rating=[1 + n % 5 for n in range(20)]).to_csv(
        raw / "log.csv", index=False
    )
    succeed(["data", "import", "table", str(raw), str(tmp_path / "out"), "--label", "rating>=3"])
    capsys.readouterr()
    assert rows_of(tmp_path / "out") == [(u, i, int(1 + n % 5 >= 3)) for n, (u, i, _) in enumerate(plain())]


def test_two_columns_that_may_be_the_user(raw, tmp_path):
    """Between a session and a customer nobody can choose; a user is one."""
    table = frame().assign(session_id=[f"s{n}" for n in range(20)])
    table.to_csv(raw / "log.csv", index=False)
    assert brought(raw, tmp_path / "out")[1] == plain()
    table.rename(columns={"user_id": "customer_id"}).to_csv(raw / "log.csv", index=False)
    assert describe([raw]).doubts == ("user: is it session_id, customer_id? 'session_id' is taken.",)


def test_types_that_have_no_text(raw, tmp_path):
    """Left out by themselves, refused where a description asks for them."""
    odd = {
        "wait": pl.Series([timedelta(n) for n in range(5)]),
        "nested": pl.Series([[["a"]]] * 5),
        "parts": pl.Series([[{"a": 1}]] * 5),
        "raw": pl.Series([b"a"] * 5),
    }
    pl.DataFrame({"item_id": [f"sku-{n}" for n in range(5)], **odd}).write_parquet(raw / "items.parquet")
    summary, found = brought(raw, tmp_path / "out")
    assert found == plain()
    assert {name: role for _, name, role, _ in summary.columns if name in odd} == dict.fromkeys(odd, "leave out")
    for name, role in (("wait", "number"), ("nested", "list"), ("parts", "list"), ("raw", "category")):
        content = describe([raw]).as_json()
        content["files"][1]["columns"][name] = role
        with pytest.raises(DataError, match=f"items.parquet, column '{name}': expected .*, found"):
            import_table(read_description(content, "x", raw), tmp_path / "again")


@pytest.mark.parametrize("stay", [30, 50, 1000])
def test_users_are_unknown_in_training_as_often_as_in_the_validation_rows(stay, raw, tmp_path):
    """Users come one after the other, each for ``stay`` rows in time: the later a row, the newer its user."""
    rows = [(f"u{n // stay}", f"sku-{n % 5}", START + n, n % 2) for n in range(600)]
    frame(rows).to_csv(raw / "log.csv", index=False)
    summary, _ = brought(raw, tmp_path / "out", known="all")
    train, valid = (pl.read_parquet(tmp_path / f"out/{split}.parquet") for split in ("train", "valid"))
    new = valid.join(train, on="user_id", how="anti").height / valid.height
    (config,) = yaml.safe_load((tmp_path / "out/dataset_config.yaml").read_text()).values()
    columns = {n: c for c in config["feature_cols"] for n in np.atleast_1d(c["name"])}
    assert columns["user"].get("unknown_rate", 0) == min(round(new, 1), 0.9)
    if new:
        assert f"{new:.0%} of the validation rows" in said(summary, "user: ", "unknown")
    else:
        assert not [note for note in summary.notes if note.startswith("user: ")]


def test_names_that_are_ours(raw, tmp_path):
    ids = [f"sku-{n}" for n in range(5)]
    table = {"item_id": ids, "id": list("ababa"), "seq": list("ababa"), "emb_d4": list("ababa"), "tags": list("ababa")}
    pl.DataFrame({**table, "genres": [["x"]] * 5}).write_parquet(raw / "items.parquet")
    users = {"user_id": ["u0", "u1"], "id": ["m", "n"], "rate_level": ["p", "q"]}
    pl.DataFrame(users).write_csv(raw / "users.csv")
    assert brought(raw, tmp_path / "out", known="all")[1] == plain()
    info = pl.read_parquet(tmp_path / "out/item_info.parquet")
    assert info["item_id"].to_list() == list(range(6))
    for name in ("id", "seq", "emb_d4", "tags"):
        assert info[f"item_item_{name}"].to_list() == [0, 1, 2, 1, 2, 1]
    assert info["item_tags"].to_list() == [[0], *[[1]] * 5]
    pl.DataFrame({"item_id": ids, "a.b": ids, "a b": ids}).write_parquet(raw / "items.parquet")
    with pytest.raises(DataError, match=r"'a\.b' and 'a b': .* both would be item_a_b"):
        import_table(read_description(all_taken(describe([raw])), "x", raw), tmp_path / "again")


def all_taken(description):
    """A description that calls every column of items but their ids a category."""
    content = description.as_json()
    columns = content["files"][1]["columns"]
    columns |= {name: "category" for name in columns if name != "item_id"}
    return content


def test_parts_with_vectors_of_other_widths(raw, tmp_path):
    for width, ids in ((4, ["sku-0", "sku-1"]), (5, ["sku-2", "sku-3"])):
        pl.DataFrame({"item_id": ids, "image": [[1.0] * width] * 2}).write_parquet(raw / f"items-{width}.parquet")
    with pytest.raises(DataError, match=r"items-5.parquet, column 'image': expected vectors of 4 numbers.*found 5"):
        brought(raw, tmp_path / "out")


def test_an_import_may_be_replaced(raw, tmp_path):
    """Whatever an import writes itself is no reason against --force, nor what another left when it was killed."""
    out = tmp_path / "out"
    brought(raw, out)
    (out / "fitted_x.npz").write_bytes(b"as an import that extends another takes it along")
    (tmp_path / ".out.part-killed").mkdir()
    assert brought(raw, out, force=True)[1] == plain()
    assert not (out / "fitted_x.npz").exists()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".out.part")) == []


def test_a_label_that_is_neither_0_nor_1(raw, tmp_path):
    """Its place is that of an editor, behind a row that is set aside."""
    text = as_text().splitlines()
    text[3] = text[3].replace("sku", ",sku")
    text[9] = text[9][:-1] + "2"
    (raw / "log.csv").write_text("\n".join(text) + "\n")
    content = describe([raw]).as_json() | {"label": "click"}
    with pytest.raises(DataError, match=r"log\.csv, line 10, column 'click': expected a label, 0 or 1, found 2"):
        import_table(read_description(content, "x", raw), tmp_path / "out")


def test_an_event_may_be_no_click(raw):
    """RetailRocket's columns."""
    names = {"user_id": "visitorid", "item_id": "itemid", "time": "timestamp"}
    table = frame().rename(columns=names).drop(columns="click").assign(event=["view", "addtocart"] * 10)
    table.to_csv(raw / "log.csv", index=False)
    (doubt,) = describe([raw]).doubts
    assert "is every 'event' a click (addtocart, view)?" in doubt


def test_days_whose_hours_are_in_another_column(raw):
    times = pd.to_datetime(frame()["time"], unit="s")
    table = frame().assign(date=times.dt.strftime("%Y-%m-%d"), time=times.dt.strftime("%H:%M:%S"))
    table.to_csv(raw / "log.csv", index=False)
    (doubt,) = describe([raw]).doubts
    assert "'date' is taken without the hours in 'time'" in doubt


def test_names_of_columns_come_through_a_description(raw, tmp_path):
    names = ["yes", "null", "1", "a: b", "#x", "- y", "'q", "long " * 40, "two\nlines", "{z}", "~", "a.c", "*s"]
    ids = [f"sku-{n}" for n in range(5)]
    pd.DataFrame({"item_id": ids} | {name: list("ababa") for name in names}).to_csv(raw / "items.csv", index=False)
    file = tmp_path / "x.yaml"
    file.write_text(describe([raw]).as_yaml())
    found = read_description(yaml.safe_load(file.read_text()), "x", raw)
    assert [*found.about("items")[0].columns] == ["item_id", *(name.strip() for name in names)]


def test_files_put_together_and_ids_that_are_none(raw, tmp_path):
    """The header is there again; ids that pandas and databases write for none; a column that numbers the rows."""
    none = ["NaN", "None", r"\N", "N/A", "NULL", "null", ""]
    rows = as_text().splitlines()
    rows[9:9] = rows[:1]
    (raw / "log.csv").write_text("\n".join([*rows, *(f"u1,{x},{START},1" for x in none)]) + "\n")
    table = pd.DataFrame({"item_id": [f"sku-{n}" for n in range(30)], "kind": ["a", "b"] * 15})
    table.to_csv(raw / "items.csv")
    (raw / "items.csv").write_text((raw / "items.csv").read_text() + ",item_id,kind\n")
    summary, found = brought(raw, tmp_path / "out")
    assert found == plain()
    assert said(summary, "log.csv: 1 × the names of the columns again (log.csv:10)")
    assert said(summary, "log.csv: 7 × no item (log.csv:23")
    assert said(summary, "items.csv: 1 × the names of the columns again (items.csv:32)")
    assert set(pl.read_parquet(tmp_path / "out/item_info.parquet").columns) == {"item_id", "item_kind", "item_tags"}


@pytest.mark.parametrize(
    ("written", "role", "expected"),
    [
        (["1,234.50", "2,000", "3.5", "1,000,000", "7"], "number (thousands comma)", [1234.5, 2000, 3.5, 1e6, 7]),
        (["1.234,50", "2.000", "3,5", "1.000.000,1", "7"], "number (decimal comma)", [1234.5, 2000, 3.5, 1000000.1, 7]),
        (["1,234", "2,500", "999", "3,125", "7"], "leave out", None),
    ],
)
def test_commas_in_numbers(raw, tmp_path, written, role, expected):
    """What may be 1234 and 1.234 is left out, and the person says which."""
    pd.DataFrame({"item_id": [f"sku-{n}" for n in range(5)], "price": written}).to_csv(raw / "items.csv", index=False)
    description = describe([raw])
    assert str(description.about("items")[0].columns["price"]) == role
    content = description.as_json()
    if expected is None:
        content["files"][1]["columns"]["price"] = "number (thousands comma)"
        expected = pd.read_csv(raw / "items.csv", thousands=",")["price"]
    import_table(read_description(content, "x", raw), tmp_path / "out")
    price = pl.read_parquet(tmp_path / "out/item_info.parquet")["item_price"].to_numpy()[1:]
    assert np.allclose(price, (expected - np.mean(expected)) / np.std(expected), atol=1e-5)


def test_arrays_that_are_no_vectors_are_named(raw, tmp_path):
    np.save(raw / "popularity.npy", np.ones(5))
    np.save(raw / "pixels.npy", np.ones((5, 2, 2)))
    summary, _ = brought(raw, tmp_path / "out")
    assert said(summary, "popularity.npy is left out")
    assert said(summary, "pixels.npy is left out")


def test_most_rows_wrong_is_no_matter_of_rows(raw, tmp_path):
    content = describe([raw]).as_json()
    content["files"][0]["columns"]["time"] = "time (milliseconds)"
    with pytest.raises(DataError, match=r"20 of 20 rows cannot be used.*no time in 'time' \(milliseconds\)"):
        import_table(read_description(content, "x.yaml", raw), tmp_path / "out")


def test_described_corrected_imported_and_trainable(raw, tmp_path, monkeypatch, capsys):
    """The way a person goes: every line of the tables fits 80 columns, and what is corrected counts."""
    table = frame()
    table["device"] = ["phone", "desk"] * 10
    table["seconds"] = range(20)
    table.to_csv(raw / "log.csv", index=False)
    pd.DataFrame({"user_id": ["u0", "u1"], "age": [20.5, 40.5], "city": ["x", "y"]}).to_csv(
        raw / "users.csv", index=False
    )
    file = tmp_path / "shop.yaml"
    succeed(["data", "import", "table", str(raw), "--describe", str(file)])
    assert max(map(len, capsys.readouterr().out.splitlines()[:-1])) <= 80
    content = yaml.safe_load(file.read_text())
    assert content["files"][0]["columns"]["device"] == "leave out"
    file.write_text(file.read_text().replace("device: leave out", "device: category"))
    succeed(["data", "import", "table", str(file), str(tmp_path / "shop"), "--max-history", "5"])
    tables, _, _ = capsys.readouterr().out.partition("New:")
    assert max(len(line) for line in tables.splitlines() if str(tmp_path) not in line) <= 80
    train = pl.read_parquet(tmp_path / "shop/train.parquet")
    vocabularies = json.loads((tmp_path / "shop/vocabularies.json").read_text())
    assert [vocabularies["context_device"][code - 1] for code in train["context_device"]] == ["phone", "desk"] * 8
    assert "context_seconds" not in train.columns
    features = pl.read_parquet(tmp_path / "shop/user_features.parquet")
    assert features["user_age"].to_list() == [0, -1, 1, 0]  # of padding, u0, u1, and u2 who is in no table
    assert train["user_age"].to_list() == [features["user_age"][u] for u in train["user_id"]]
    with pytest.raises(SystemExit):
        main(["data", "import", "table", str(raw), "--describe", str(file)])
    assert "is there already" in capsys.readouterr().err

    from qin_zoo.experiment.prepare import prepare_params
    from qin_zoo.experiment.run import run_experiment

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("qin_zoo.experiment.curves.draw_curves", lambda *_: None)
    ((name, params),) = yaml.safe_load((tmp_path / "shop/dataset_config.yaml").read_text()).items()
    params |= {"model": "DIN", "dataset_id": name, "embedding_dim": 4, "epochs": 1, "batch_size": 8, "verbose": 0}
    record = run_experiment(prepare_params("r", params, tmp_path), tmp_path, echo=lambda _: None)
    assert 0 < record["valid"]["logloss"] < 5


def succeed(argv):
    with pytest.raises(SystemExit) as done:
        main(argv)
    assert not done.value.code
