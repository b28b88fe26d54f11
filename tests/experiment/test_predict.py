"""Predictions of a split: of which rows they are, and that they are numbers."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from qin_zoo.data.dataset import Dataset
from qin_zoo.errors import QinZooError
from qin_zoo.experiment.predict import predict_rows, predict_split
from qin_zoo.experiment.prepare import build_model, prepare
from qin_zoo.experiment.run import run_experiment
from qin_zoo.metrics import evaluate_metrics

SMALL = {"epochs": 1, "embedding_dim": 4, "max_len": 8, "batch_size": 512, "num_layers": 1, "num_row": 2}


def trained(sample, folder, **changes):
    prepared = prepare("QIN_sample", data=sample, overrides={**SMALL, "model_root": str(folder), **changes})
    run_experiment(prepared, folder, echo=lambda text: None)
    return prepared


def predictions(file):
    with open(file) as lines:
        rows = list(csv.DictReader(lines))
    return np.array([int(r["ID"]) for r in rows]), np.array([float(r["Task2"]) for r in rows])


@pytest.mark.parametrize("changes", [{"train_fraction": 0.3}, {"unseen_items": 0.2}, {}])
def test_the_train_split_is_predicted_in_the_rows_that_were_used(changes, sample, tmp_path):
    """Labels and predictions are of the same rows: each prediction is that of its ID in the whole file."""
    prepared = trained(sample, tmp_path, **changes)
    said = []
    files = predict_split(prepared, "train", echo=said.append)
    ids, y_pred = predictions(files.prediction)
    dataset = prepared.open_dataset()
    whole = prepared.varied({key: 1.0 if key == "train_fraction" else 0.0 for key in changes})
    assert ids.tolist() == dataset.used_rows("train").tolist()
    assert (len(ids) < 3000) is bool(changes)
    y_true = whole.open_dataset().labels("train")[ids]
    told = dict(part.split(" ") for part in said[-2].removeprefix("train: ").split("  "))
    assert float(told["AUC"]) == pytest.approx(roc_auc_score(y_true, y_pred), abs=1e-6)
    assert float(told["logloss"]) == pytest.approx(log_loss(y_true, y_pred), abs=1e-6)
    assert any("IDs are rows of the file" in line for line in said) is bool(changes)
    if "unseen_items" not in changes:  # which changes histories too
        again = predict_split(whole, "train", out=tmp_path / "whole", echo=said.append)
        np.testing.assert_allclose(predictions(again.prediction)[1][ids], y_pred, atol=1e-6)


def test_the_mean_of_several_runs(sample, tmp_path):
    """By NumPy and scikit-learn, of models that see other parts of the same rows; nobody's files are replaced."""
    one, other = trained(sample, tmp_path), trained(sample, tmp_path / "other", seed=7, max_len=3)
    parts = [predictions(predict_split(p, "valid", out=tmp_path / p.expid, echo=lambda text: None).prediction)[1]
             for p in (one, other)]  # fmt: skip
    kept, said = {file: file.read_bytes() for file in tmp_path.rglob("*.csv")}, []
    files = predict_split(one, "valid", echo=said.append, others=[(other, other.files.checkpoint)])
    assert files.prediction.name == "QIN_sample.mean-of-2.valid.prediction.csv"
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.csv") if file != files.prediction} == kept
    y_pred = predictions(files.prediction)[1]
    np.testing.assert_allclose(y_pred, np.mean(parts, axis=0), rtol=0, atol=1e-7)
    told = [line.split(": ")[1] for line in said if "valid: " in line]
    y_true = one.open_dataset().labels("valid")
    for line, scores in zip(told, (*parts, y_pred), strict=True):
        found = dict(part.split(" ") for part in line.split("  "))
        assert float(found["AUC"]) == pytest.approx(roc_auc_score(y_true, scores), abs=1e-6)
        assert float(found["logloss"]) == pytest.approx(log_loss(y_true, scores), abs=1e-6)


@pytest.mark.parametrize("change", ["order", "fewer", "labels"])
def test_no_mean_of_other_rows(change, sample, tmp_path):
    import polars as pl

    shutil.copytree(sample, data := tmp_path / "data")
    rows = pl.read_parquet(sample / "valid.parquet")
    flipped = rows.with_columns(label=1 - pl.col("label"))
    {"order": rows.reverse(), "fewer": rows[1:], "labels": flipped}[change].write_parquet(data / "valid.parquet")
    one, other = trained(sample, tmp_path / "one"), trained(data, tmp_path / "other")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.csv")}
    with pytest.raises(QinZooError, match="needs the same rows of the valid split in the same order"):
        predict_split(one, "valid", echo=lambda text: None, others=[(other, other.files.checkpoint)])
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.csv")} == before


class TwoLabels:
    """Predicts two labels as FuxiCTR's multi-task models do, a dictionary, whose order is its own."""

    device, validation_metrics = torch.device("cpu"), ["AUC"]

    def predict(self, loader):
        return {name: torch.cat([batch[name] for batch in loader]).numpy() for name in ("share", "click")}

    def evaluate_metrics(self, *args):
        return evaluate_metrics(*args)


def test_each_label_has_its_own_column(tmp_path):
    g = np.random.default_rng(0)
    columns = {"user": g.integers(1, 5, 60), "click": g.integers(0, 2, 60), "share": g.integers(0, 2, 60)}
    for split in ("train", "valid", "test"):
        np.savez(tmp_path / f"{split}.npz", **columns)
    spec = {"user": {"source": "", "type": "categorical", "padding_idx": 0, "vocab_size": 5}}
    feature_map = {"dataset_id": "D", "num_fields": 1, "total_features": 5, "input_length": 1}
    feature_map |= {"labels": ["click", "share"], "features": [spec]}
    (tmp_path / "feature_map.json").write_text(json.dumps(feature_map))
    files = {f"{split}_data": str(tmp_path / f"{split}.npz") for split in ("train", "valid", "test")}
    dataset = Dataset(
        {"dataset_id": "D", "data_format": "npz", "feature_map_json": str(tmp_path / "feature_map.json"), **files}
    )
    y_pred, metrics = predict_rows(TwoLabels(), dataset, "test")
    np.testing.assert_array_equal(y_pred, np.stack([columns["click"], columns["share"]], axis=1))
    assert metrics == {"click_AUC": 1, "share_AUC": 1, "AUC": 1}


@pytest.mark.parametrize("split", ["test", "valid"])
def test_weights_that_are_no_numbers_predict_nothing(split, sample, tmp_path):
    prepared = trained(sample, tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*prediction*")}
    state = torch.load(prepared.files.checkpoint, weights_only=True)
    name = next(n for n in state if n.endswith("weight") and "embedding" not in n)
    state[name][0, 0] = torch.nan
    torch.save(state, prepared.files.checkpoint)
    with pytest.raises(QinZooError, match=r"predictions of the .* split are NaN or infinite, the first in row 0"):
        predict_split(prepared, split, echo=lambda text: None)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*prediction*")} == before


@pytest.mark.parametrize(
    ("changes", "monitor", "mode"),
    [
        ({"metrics": ["logloss"]}, "logloss", "min"),
        ({"metrics": ["logloss", "gAUC"]}, "logloss", "min"),
        ({"metrics": ["gAUC", "logloss"]}, "gAUC", "max"),
        ({"metrics": ["MRR", "AUC"]}, "AUC", "max"),
    ],
)
def test_the_monitor_fits_the_metrics(changes, monitor, mode, sample, tmp_path):
    config = without_monitor(tmp_path)
    overrides = {**SMALL, "epochs": 3, "learning_rate": 0.03, "model_root": str(tmp_path), **changes}
    prepared = prepare("QIN_sample", config, data=sample, overrides={**overrides, "group_id": "user_id"})
    assert (prepared.params["monitor"], prepared.params["monitor_mode"]) == (monitor, mode)
    record = run_experiment(prepared, tmp_path, echo=lambda text: None)
    values = [e["metrics"][monitor] for e in record["evaluations"]]
    assert record["valid"].keys() == set(changes["metrics"])
    assert record["valid"][monitor] == pytest.approx((min if mode == "min" else max)(values), abs=1e-6)
    assert "the weights kept are those of epoch" in prepared.files.report.read_text()


def without_monitor(folder):
    """The sample's experiment as it is configured, but for what it monitors."""
    import yaml
    from conftest import REPOSITORY

    (folder / "config").mkdir()
    base = yaml.safe_load((REPOSITORY / "experiments/QIN/model_config.yaml").read_text())
    blocks = {**base.get("Base", {}), **base["QIN_sample"]}
    for key in ("monitor", "monitor_mode", "metrics"):
        blocks.pop(key, None)
    (folder / "config/model_config.yaml").write_text(yaml.safe_dump({"QIN_sample": blocks}))
    dataset = REPOSITORY / "dataset_configs/sample.yaml"
    (folder / "config/dataset_config.yaml").write_text(dataset.read_text())
    return folder / "config"


def test_a_monitor_that_cannot_be_computed_is_told_before_the_training(sample, tmp_path):
    import polars as pl

    for name in ("train", "item_info"):
        (tmp_path / f"{name}.parquet").symlink_to(sample / f"{name}.parquet")
    pl.read_parquet(sample / "valid.parquet").with_columns(label=pl.lit(0.0)).write_parquet(tmp_path / "valid.parquet")
    prepared = prepare("QIN_sample", data=sample, overrides={**SMALL, "model_root": str(tmp_path / "c")})
    prepared.params.update({f"{n}_data": str(tmp_path / f"{n}.parquet") for n in ("train", "valid")}, test_data=None)
    said = []
    with pytest.raises(QinZooError, match="monitored metric AUC is not a number on the validation split"):
        run_experiment(prepared, tmp_path, echo=said.append)
    assert not said
    prepared.params.update(monitor="logloss", monitor_mode="min")
    assert np.isnan(run_experiment(prepared, tmp_path, echo=said.append)["valid"]["AUC"])


@pytest.mark.parametrize("best_only", [True, False])
def test_the_report_names_the_epoch_whose_weights_are_kept(best_only, sample, tmp_path):
    """Without a penalty and at a high rate the best epoch is not the last."""
    wild = {"epochs": 4, "learning_rate": 0.05, "batch_size": 128, "embedding_regularizer": 0, "factor": 0.9}
    prepared = trained(sample, tmp_path, early_stop_patience=5, save_best_only=best_only, **wild)
    record = json.loads(prepared.files.record.read_text())
    dataset = prepared.open_dataset()
    model = build_model(prepared, dataset)
    model.load_weights(str(prepared.files.checkpoint))
    kept = model.evaluate(dataset.loader("valid"))["AUC"]
    values = [e["metrics"]["AUC"] for e in record["evaluations"]]
    assert len(set(values)) == 4
    assert values[-1] < max(values), "the last epoch is not the best one, or this shows nothing"
    (epoch,) = [e["epoch"] for e in record["evaluations"] if e["metrics"]["AUC"] == pytest.approx(kept, abs=1e-9)]
    assert epoch == (values.index(max(values)) + 1 if best_only else 4)
    report = prepared.files.report.read_text()
    assert f"the weights kept are those of epoch {epoch}." in report
    starred = [line for line in report.splitlines() if "★" in line]
    assert [line.split("|")[1].strip() for line in starred] == [str(epoch)]
