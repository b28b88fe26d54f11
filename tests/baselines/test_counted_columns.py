"""The baselines' columns as a feature of networks."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from sklearn.preprocessing import StandardScaler

from qin_zoo.baselines.columns import COLUMN
from qin_zoo.baselines.run import prepare_baselines, run_baselines
from qin_zoo.data.dataset import Dataset
from qin_zoo.errors import ConfigError
from qin_zoo.experiment.prepare import prepare
from qin_zoo.experiment.record import read_record
from qin_zoo.experiment.run import run_experiment
from qin_zoo.registry import create_model
from qin_zoo.results.entry import entry_of
from qin_zoo.results.lines import boards, compare


def written(sample, tmp_path, **more):
    settings = {"max_len": 10, "model_root": str(tmp_path / "out")}
    prepared = prepare_baselines("QIN_sample", data=sample, overrides=settings, which=["ItemConstant"])
    run_baselines(prepared, tmp_path, echo=lambda line: None, columns=tmp_path / "counted", **more)
    return tmp_path / "counted"


def test_a_dataset_with_their_columns(sample, tmp_path):
    folder = written(sample, tmp_path)
    scales = json.loads((folder / f"{COLUMN}.json").read_text())
    train, before = pl.read_parquet(folder / "train.parquet"), pl.read_parquet(sample / "train.parquet")
    assert len(train) == len(before) - int(0.05 * len(before)), "rows before which there was nothing to count"
    assert train.drop(COLUMN).equals(before.tail(len(train)))
    values = np.array(train[COLUMN].to_list())
    assert values.shape == (len(train), len(scales["names"]))
    assert np.abs(values).max() <= 5
    raw = values * scales["deviation"] + scales["mean"]
    inside = (np.abs(values) < 5).all(0)  # nothing cut: what scikit-learn makes of the same numbers
    assert inside.sum() > 5
    theirs = StandardScaler().fit(raw)
    np.testing.assert_allclose(theirs.transform(raw)[:, inside], values[:, inside], atol=2e-3)
    (name, block), = yaml.safe_load((folder / "dataset_config.yaml").read_text()).items()
    assert name == "counted"
    dataset = Dataset({**block, "dataset_id": name, "batch_size": 64})
    model = create_model("DIN", dataset.feature_map, embedding_dim=4)
    assert model.context_dims[COLUMN] == 64
    batch = next(iter(dataset.loader("train", shuffle=False)))
    np.testing.assert_allclose(batch.rows[COLUMN].numpy(), values[: len(batch)], rtol=1e-6)
    assert model(batch)["y_pred"].shape == (len(batch), 1)
    moved = shutil.copytree(folder, tmp_path / "elsewhere")  # a whole data set: `run DIN --data elsewhere`
    shutil.rmtree(folder)
    elsewhere = prepare("DIN", data=moved).open_dataset().loader("train", shuffle=False)
    assert len(elsewhere.items["item_id"]) == len(pl.read_parquet(sample / "item_info.parquet"))


def test_a_network_on_them_stands_beside_the_baselines(sample, tmp_path):
    """Other files, the same rows: one board, the report's verdict, and a paired difference. Other labels are others."""
    folder, root = written(sample, tmp_path), tmp_path / "out"
    small = {"epochs": 1, "embedding_dim": 4, "verbose": 0, "model_root": str(root)}
    record = run_experiment(prepare("DIN", data=folder, overrides=small), tmp_path, echo=lambda line: None)
    report = Path(record["files"]["report"]).read_text()
    assert "ItemConstant_sample has" in report
    constant = read_record(root / "sample" / "ItemConstant_sample.json")
    (board,) = boards(map(entry_of, (constant, record)))
    network, trees = sorted(board.lines, key=lambda line: line.name)
    assert (network.name, trees.name) == ("DIN", "ItemConstant_sample")
    split = network.first.split
    apart = compare(network, trees, "AUC")
    assert apart.mean == pytest.approx(record[split]["AUC"] - constant[split]["AUC"], abs=1e-7)
    assert apart.users > 0
    turned = {**constant, "draws": {**constant["draws"], "truth": "of other labels"}}
    assert len(boards(map(entry_of, (turned, record)))) == 2


def test_not_over_the_dataset_itself(sample, tmp_path):
    settings = {"model_root": str(tmp_path)}
    prepared = prepare_baselines("QIN_sample", data=sample, overrides=settings, which=["ItemConstant"])
    before = (sample / "train.parquet").read_bytes()
    with pytest.raises(ConfigError, match="holds the dataset itself"):
        run_baselines(prepared, tmp_path, echo=lambda line: None, columns=sample)
    assert (sample / "train.parquet").read_bytes() == before
