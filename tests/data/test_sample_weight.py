"""A column that says what each training row counts: read with the training rows alone, in every layout."""

import csv

import numpy as np
import polars as pl
import pytest
from named_fields import EXAMPLE, made

from qin_zoo.data.loader import FieldsLoader
from qin_zoo.errors import ConfigError, DataError
from qin_zoo.experiment.prepare import prepare
from qin_zoo.experiment.run import run_experiment


def weighted(sample, folder, values):
    """The sample with a column of the training rows."""
    folder.mkdir()
    for file in sample.iterdir():
        (folder / file.name).symlink_to(file)
    train = pl.read_parquet(sample / "train.parquet")
    (folder / "train.parquet").unlink()
    train.with_columns(seconds=values(len(train))).write_parquet(folder / "train.parquet")
    return folder


def open_run(folder, tmp_path, **params):
    params = {"cache_dir": str(tmp_path / "cache"), "model_root": str(tmp_path), "sample_weight": "seconds", **params}
    return prepare("MLP_sample", data=folder, overrides=params)


def test_item_table(sample, tmp_path):
    values = np.arange(3000, dtype=np.float32) / 7
    prepared = open_run(weighted(sample, tmp_path / "data", lambda rows: values), tmp_path, epochs=1)
    dataset = prepared.open_dataset()
    rows = np.array([5, 2999, 0])
    np.testing.assert_array_equal(dataset.loader("train", shuffle=False).batch(rows).rows["seconds"], values[rows])
    assert "seconds" not in dataset.loader("valid").batch(rows % 500).rows
    record = run_experiment(prepared, tmp_path, echo=lambda line: None)
    assert record["evaluations"][0]["train_loss"] > 50  # of rows that count 214 on the average


def test_less_than_nothing(sample, tmp_path):
    folder = weighted(sample, tmp_path / "data", lambda rows: np.where(np.arange(rows) == 17, -0.5, 1.0))
    with pytest.raises(DataError, match=r"row 17.*at least 0, found -0.5"):
        open_run(folder, tmp_path).open_dataset().loader("train")


@pytest.mark.parametrize(("name", "what"), [("likes_level", "feature"), ("label", "label")])
def test_no_column_of_its_own(name, what, sample, tmp_path):
    with pytest.raises(ConfigError, match=f"'{name}', which is a {what} too"):
        open_run(sample, tmp_path, sample_weight=name).open_dataset().loader("train")


def test_raw_csv(tmp_path):
    """The column `time` of the files, which no feature is made of."""
    _, dataset, model, _ = made(tmp_path, "example", EXAMPLE, "MLP", sample_weight="time")
    loader = dataset.loader("train", shuffle=False)
    assert isinstance(loader, FieldsLoader)
    with open(tmp_path / "train.csv", newline="") as file:
        written = [float(row["time"]) for row in csv.DictReader(file)]
    batch = loader.batch(np.arange(120))
    np.testing.assert_array_equal(batch["time"], np.float32(written))
    assert "time" not in dataset.loader("test").batch(np.arange(120))
    found = model.train()(batch)
    assert model.add_loss(found, model.get_labels(batch)) > 1e4


def test_raw_csv_without_the_column(tmp_path):
    with pytest.raises(DataError, match="expected a column 'seconds'"):
        made(tmp_path, "example", EXAMPLE, "MLP", sample_weight="seconds")
