"""`data import table` on ugly tables: each with the rows that pandas or the page says, or one clear message."""

import io
import json

import h5py
import numpy as np
import pandas as pd
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from qin_zoo.cli import build_app, main
from qin_zoo.data.importers import ImportOptions, import_table
from qin_zoo.data.importers.description import read_description
from qin_zoo.data.importers.guess import describe
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
    found = np.array(pl.read_parquet(tmp_path / "out/item_info.parquet")["item_emb_d4"].to_list())
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
    table = np.array(pl.read_parquet(tmp_path / "out/item_info.parquet")["item_emb_d6"].to_list())
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
    table = np.array(pl.read_parquet(tmp_path / "out/item_info.parquet")["item_emb_d4"].to_list())
    assert table.sum(1).tolist() == [0, 0, 4, 4, 0, 0]


def test_a_doubled_header(raw, tmp_path):
    text = (raw / "log.csv").read_text().replace("user_id,item_id,time,click", "user_id,item_id,item_id ,click")
    (raw / "log.csv").write_text(text)
    with pytest.raises(DataError, match=r"log.csv: the column 'item_id' is there twice"):
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
    with pytest.raises(DataError, match=r"items.csv: expected .* found"):
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
    with pytest.raises(DataError, match=r"log.csv\): expected a column as user, found none"):
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
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if line[:1] in "┃│┏┡└├") <= 80
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
