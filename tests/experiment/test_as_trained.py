"""Weights are used with the vocabularies, sizes and tables they were trained with, or it is said that they are not."""

import csv
import json
import logging
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from qin_zoo.data.grown import require_same_words
from qin_zoo.data.vocabulary import FittedEncoder
from qin_zoo.errors import DataError
from qin_zoo.experiment.continued import prepare_continuation
from qin_zoo.experiment.predict import predict_split
from qin_zoo.experiment.prepare import prepare
from qin_zoo.experiment.run import run_experiment
from qin_zoo.results.trained import find_run

FEATURES = [
    {"name": "user", "dtype": "str", "type": "categorical"},
    {"name": "item", "dtype": "str", "type": "categorical"},
    {"name": "clicked", "dtype": "str", "type": "sequence", "max_len": 4, "share_embedding": "item",
     "feature_encoder": None},
    {"name": "price", "dtype": "float", "type": "numeric", "normalizer": "StandardScaler"},
    {"name": "age", "dtype": "float", "type": "categorical", "category_processor": "quantile_bucket", "num_buckets": 4},
]  # fmt: skip


def write(file, rows, seed, popular):
    """A day's rows; ``popular`` decides which values are frequent, and so the numbers that a vocabulary gives them."""
    g = np.random.default_rng(seed)
    weights = np.roll(np.arange(1, 11) ** 2.0, popular)
    items = g.choice(10, rows, p=weights / weights.sum())
    with open(file, "w", newline="") as out:
        table = csv.writer(out)
        table.writerow(["user", "item", "clicked", "price", "age", "click"])
        for item in items:
            clicked = "^".join(f"i{i}" for i in g.integers(0, 10, g.integers(0, 6)))
            row = [f"u{g.integers(8)}", f"i{item}", clicked, g.normal(popular), g.integers(18, 70 + popular)]
            table.writerow([*row, int(g.random() < (item % 2) * 0.8 + 0.1)])


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for seed, split in enumerate(("train", "valid", "test")):
        write(tmp_path / f"data/{split}.csv", 600 if split == "train" else 200, seed, 0)
    block = {
        "data_root": "./encoded/", "data_format": "csv", "target_field": "item", "sequence_field": "clicked",
        **{f"{split}_data": f"data/{split}.csv" for split in ("train", "valid", "test")},
        "feature_cols": [{"active": True, **column} for column in FEATURES],
        "label_col": {"name": "click", "dtype": "float"},
    }  # fmt: skip
    run = {"model": "DIN", "dataset_id": "D", "embedding_dim": 4, "batch_size": 64, "epochs": 1, "seed": 1}
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/dataset_config.yaml").write_text(yaml.safe_dump({"D": block}))
    (tmp_path / "conf/model_config.yaml").write_text(yaml.safe_dump({"Base": {}, "E": run}))
    torch.set_num_threads(1)
    record = run_experiment(prepare("E", Path("conf")), tmp_path, echo=lambda line: None)
    return Path(record["files"]["prediction"]).read_bytes()


def predictions(weights=None, **overrides):
    prepared, checkpoint = find_run("E", Path("conf"), weights and Path(weights), overrides=overrides)
    return predict_split(prepared, "test", checkpoint, echo=lambda line: None).prediction.read_bytes()


@pytest.mark.usefixtures("experiment")
def test_tomorrow_s_training_rows_change_no_prediction(experiment, caplog):
    write("data/train.csv", 700, 9, 5)
    assert predictions() == experiment
    Path("kept.model").write_bytes(Path("checkpoints/D/E.model").read_bytes())
    assert predictions("kept.model") == experiment, "a copy of the weights is known by its content"
    Path("checkpoints/D/E.json").unlink()
    assert "encoder.json" not in caplog.text
    predictions("kept.model")
    assert "there is no kept.encoder.json beside it" in caplog.text
    assert predictions("kept.model", encoder_file="checkpoints/D/E.encoder.json") == experiment
    Path("checkpoints/D/E.encoder.json").unlink()
    assert predictions() != experiment, "without what the run kept the ids are others"


def test_weights_are_not_taken_over_where_values_have_other_numbers(experiment):
    """With the vocabularies of then, and a learning rate that moves nothing, they predict what they predicted."""
    write("data/train.csv", 700, 9, 5)
    start = {"init_from": "checkpoints/D/E.model", "learning_rate": 1e-12, "model_root": "other"}
    with pytest.raises(DataError, match=r"expected number 2 of 'user' to be .*--set encoder_file=checkpoints"):
        run_experiment(prepare("E", Path("conf"), overrides=start), Path(), echo=lambda line: None)
    start["encoder_file"] = "checkpoints/D/E.encoder.json"
    record = run_experiment(prepare("E", Path("conf"), overrides=start), Path(), echo=lambda line: None)
    texts = Path(record["files"]["prediction"]).read_text(), experiment.decode()
    now, then = ([float(line.split(",")[1]) for line in text.split()[1:]] for text in texts)
    np.testing.assert_allclose(now, then, atol=1e-6)


@pytest.mark.parametrize(
    ("then", "now", "same"),
    [
        ((["a", "b"], []), (["a", "b", "c"], []), True),
        ((["a", "b"], []), (["b", "a"], []), False),
        ((["a", "b"], []), (["a"], []), False),
        ((["a", "b"], ["v"]), (["a", "b"], ["v", "w"]), True),
        ((["a", "b"], ["v"]), (["a", "b", "c"], ["v"]), False),
    ],
)
def test_vocabularies_may_go_on_behind_the_old_words(tmp_path, then, now, same):
    for name, (words, beyond) in (("then", then), ("now", now)):
        known = {"user": {"words": words, "beyond": beyond, "remap": True}}
        text = json.dumps({"vocabularies": known, "lengths": {}, "scales": {}, "boundaries": {}})
        (tmp_path / name).write_text(text)
    with nullcontext() if same else pytest.raises(DataError, match="of 'user' to be"):
        require_same_words(tmp_path / "then", tmp_path / "now")


@pytest.mark.slow
def test_tomorrow_s_training_rows_change_no_export(experiment, tmp_path):
    """Raw values of the test rows are scored as they were when the model was trained, with all that was fitted then."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from qin_zoo.export.export import export_run
    from qin_zoo.serving import Scorer

    def export(name):
        prepared, checkpoint = find_run("E", Path("conf"), None)
        return export_run(prepared, tmp_path / name, checkpoint=checkpoint, echo=lambda line: None).manifest

    before = export("before.onnx")
    write("data/train.csv", 700, 9, 5)
    after = export("after.onnx")
    assert [before[key] for key in ("inputs", "vocabularies")] == [after[key] for key in ("inputs", "vocabularies")]
    scorer, rows = Scorer(tmp_path / "after.onnx"), list(csv.DictReader(Path("data/test.csv").open()))
    names = ("user", "item", "price", "age")
    scores = [scorer.score(row["clicked"], [{name: row[name] for name in names}])[0] for row in rows]
    lines = experiment.decode().split()
    np.testing.assert_allclose(scores, [float(line.split(",")[-1]) for line in lines[-len(rows) :]], atol=1e-6)
    Path("checkpoints/D/E.encoder.json").unlink()
    assert export("fitted anew.onnx")["inputs"] != before["inputs"]


@pytest.mark.usefixtures("experiment")
def test_a_run_without_its_encoder_is_not_continued():
    Path("checkpoints/D/E.encoder.json").unlink()
    with pytest.raises(DataError, match=r"E\.encoder\.json is gone"):
        prepare_continuation(Path("checkpoints/D/E.json"), Path("data")).open_dataset()


def test_an_encoder_of_another_form(experiment):
    file = Path("checkpoints/D/E.encoder.json")
    for content in ("{", "[]", '{"vocabularies": {"user": {"words": [1]}}}', "[" * 100_000):
        file.write_text(content)
        with pytest.raises(DataError, match="expected vocabularies and scales of a run"):
            predictions()


def test_a_feature_that_is_gone(experiment):
    config = yaml.safe_load(Path("conf/dataset_config.yaml").read_text())
    config["D"]["feature_cols"].pop(0)
    Path("conf/dataset_config.yaml").write_text(yaml.safe_dump(config))
    Path("checkpoints/D/E.json").unlink()  # which would say what the features were
    with pytest.raises(DataError, match="had a feature 'user'"):
        predictions()


def test_what_is_kept_comes_back(experiment):
    file = Path("checkpoints/D/E.encoder.json")
    assert FittedEncoder.read(file).as_json() == json.loads(file.read_text())
    assert set(json.loads(file.read_text())["boundaries"]) == {"age"}


def train_sample(sample, folder, **changes):
    overrides = {"epochs": 1, "batch_size": 512, "embedding_dim": 4, "num_layers": 1, "num_row": 2, "max_len": 8}
    overrides |= {"model_root": str(folder / "runs"), **changes}
    prepared = prepare("QIN_sample", data=sample, overrides=overrides)
    return run_experiment(prepared, folder, echo=lambda line: None)


def test_another_item_table_is_told(sample, tmp_path, caplog):
    record = train_sample(sample, tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    for file in sample.glob("*.parquet"):
        (data / file.name).write_bytes(file.read_bytes())
    prepared, _ = find_run(record["files"]["record"], None, None, data=data)
    prepared.open_dataset()
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    items = pl.read_parquet(data / "item_info.parquet")
    items.with_columns(pl.col("item_tags").reverse()).write_parquet(data / "item_info.parquet")
    prepared, _ = find_run(record["files"]["record"], None, None, data=data)
    prepared.open_dataset()
    assert "item_info.parquet differs from the item_info.parquet that the weights were trained with" in caplog.text


def test_a_value_beyond_the_sizes_of_the_run(sample, tmp_path):
    record = train_sample(sample, tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    for file in sample.glob("*.parquet"):
        (data / file.name).write_bytes(file.read_bytes())
    rows = pl.read_parquet(data / "test.parquet")
    rows.with_columns(likes_level=pl.col("likes_level") + 20).write_parquet(data / "test.parquet")
    prepared, _ = find_run(record["files"]["record"], None, None, data=data)
    with pytest.raises(DataError, match=r"the vocab_size of feature 'likes_level'.*train with that"):
        prepared.open_dataset()
