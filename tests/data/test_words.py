"""What numbers stand for: in an import's words, in those of encoded files, and in what `explain` shows."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from qin_zoo.cli import main
from qin_zoo.data.importers import ImportOptions, import_folder
from qin_zoo.experiment.prepare import prepare
from qin_zoo.experiment.run import run_experiment

RUN = {"model": "DIN", "dataset_id": "D", "embedding_dim": 4, "batch_size": 64, "epochs": 1, "seed": 1}


def rows(seed, count):
    g = np.random.default_rng(seed)
    return {
        "user": [f"u{n}" for n in g.integers(0, 9, count)],
        "item": [f"sku-{n}" for n in g.integers(0, 12, count)],
        "clicked": ["^".join(f"sku-{n}" for n in g.integers(0, 12, 3)) for _ in range(count)],
        "device": [["phone", "desktop", "watch"][n] for n in g.integers(0, 3, count)],
        "click": g.integers(0, 2, count),
    }


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Three csv files; the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    for seed, (split, count) in enumerate((("train", 400), ("valid", 80), ("test", 80))):
        pl.DataFrame(rows(seed, count)).write_csv(tmp_path / f"raw/{split}.csv")
    return tmp_path


def trained(block):
    """Trains on a dataset and explains a row."""
    Path("conf").mkdir()
    Path("conf/dataset_config.yaml").write_text(yaml.safe_dump({"D": block}))
    Path("conf/model_config.yaml").write_text(yaml.safe_dump({"Base": {}, "E": RUN}))
    run_experiment(prepare("E", Path("conf")), Path.cwd(), echo=lambda line: None)
    with pytest.raises(SystemExit) as end:
        main(["explain", "E", "--config", "conf", "--row", "7"])
    assert not end.value.code
    return json.loads(Path("checkpoints/D/E.explain.valid.7.json").read_text())


def test_an_import_writes_the_words_of_context_columns_and_explain_shows_them(source, capsys):
    fields = {"target_field": ["item"], "sequence_field": ["clicked"], "user_field": "user"}
    import_folder("fuxictr", source / "raw", source / "D", ImportOptions(label="click"), **fields)
    row = pl.read_csv(source / "raw/valid.csv").row(7, named=True)
    words = json.loads((source / "D/vocabularies.json").read_text())
    assert words["device"] == ["desktop", "phone", "watch"]
    code = pl.read_parquet(source / "D/valid.parquet")["device"][7]
    assert words["device"][code - 1] == row["device"]
    explained = trained(yaml.safe_load((source / "D/dataset_config.yaml").read_text())["D"])
    device = next(f for f in explained["features"] if f["name"] == "device")
    assert (device["value"], device["meaning"]) == (code, row["device"])
    assert explained["target"]["original_id"] == row["item"]
    assert row["device"] in capsys.readouterr().out
    assert f"| {row['device']} |" in Path("checkpoints/D/E.explain.valid.7.md").read_text()


def test_raw_files_are_explained_in_their_own_words(source):
    columns = [
        {"name": "user", "dtype": "str", "type": "categorical"},
        {"name": "item", "dtype": "str", "type": "categorical"},
        {"name": "clicked", "dtype": "str", "type": "sequence", "max_len": 4, "share_embedding": "item",
         "feature_encoder": None},
        {"name": "device", "dtype": "str", "type": "categorical"},
    ]  # fmt: skip
    explained = trained(
        {
            "data_root": "encoded", "data_format": "csv", "target_field": "item", "sequence_field": "clicked",
            **{f"{split}_data": f"raw/{split}.csv" for split in ("train", "valid", "test")},
            "feature_cols": [{"active": True, **column} for column in columns],
            "label_col": {"name": "click", "dtype": "float"},
        }
    )  # fmt: skip
    row = pl.read_csv(source / "raw/valid.csv").row(7, named=True)
    meanings = {f["name"]: f["meaning"] for f in explained["features"] if f["part"] != "history"}
    assert meanings == {name: row[name] for name in ("user", "item", "device")}
    assert [place["item"]["original_id"] for place in explained["history"]] == row["clicked"].split("^")
