"""qin-zoo doctor sees what does not belong together, and that all is well where it is."""

import json
import shutil

import polars as pl
import pytest
import torch

from qin_zoo.cli import main
from qin_zoo.doctor import look_at
from qin_zoo.errors import QinZooError
from qin_zoo.experiment.prepare import prepare
from qin_zoo.experiment.run import run_experiment
from qin_zoo.results.store import Store, find_results

SETTINGS = {"epochs": 1, "batch_size": 512, "embedding_dim": 4, "num_layers": 1, "num_row": 2, "max_len": 8}


def worst(path):
    lines = list(look_at(path))
    order = ["ok", "note", "warning", "error"]
    return max((line.severity for line in lines), key=order.index), " ".join(line.text for line in lines)


@pytest.fixture(scope="module")
def trained(sample, tmp_path_factory):
    """A run with a data folder of its own."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("doctor")
    shutil.copytree(sample, folder / "data")
    prepared = prepare("QIN_sample", data=folder / "data", overrides={**SETTINGS, "model_root": str(folder / "runs")})
    run_experiment(prepared, folder, echo=lambda line: None)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained / "runs", tmp_path / "runs")
    return tmp_path / "runs/sample/QIN_sample.json"


def test_a_healthy_run(run):
    severity, text = worst(run)
    assert severity == "ok", text
    assert "its data files are what they were" in text


def test_weights_that_were_changed(run):
    weights = run.with_suffix(".model")
    content = bytearray(weights.read_bytes())
    content[-100] ^= 4
    weights.write_bytes(content)
    assert worst(run)[0] == "error"
    with pytest.raises(SystemExit):
        main(["doctor", str(run)])


def test_data_that_was_changed(trained, tmp_path):
    shutil.copytree(trained / "data", tmp_path / "data")
    shutil.copytree(trained / "runs", tmp_path / "runs")
    run = tmp_path / "runs/sample/QIN_sample.json"
    run.write_text(run.read_text().replace(str(trained / "data"), str(tmp_path / "data")))
    items = pl.read_parquet(tmp_path / "data/item_info.parquet")
    items.with_columns(pl.col("item_tags").reverse()).write_parquet(tmp_path / "data/item_info.parquet")
    severity, text = worst(run)
    assert severity == "warning"
    assert "item_info, item_info.parquet, is not what the run was trained on" in text


def test_a_damaged_record(run):
    run.write_text("{")
    assert worst(run)[0] == "error"


def test_folders_of_runs(run):
    """That of one dataset, and that of all, where exports and their manifests may lie, too."""
    (run.parent / "qin.onnx.json").write_text("{}")
    for folder in (run.parent, run.parent.parent):
        severity, text = worst(folder)
        assert severity == "ok", text
        assert "QIN_sample.json: QIN on sample" in text
    with pytest.raises(QinZooError, match=r"qin\.onnx\.json: expected a run's record"):
        worst(run.parent / "qin.onnx.json")


def test_data_machine_and_others(trained, tmp_path):
    severity, _ = worst(trained / "data")
    assert severity in ("ok", "note", "warning")
    assert "cores may be used" in worst(None)[1]
    assert "products in bfloat16 take" in worst(None)[1]
    (tmp_path / "x.onnx").write_bytes(b"no export")
    with pytest.raises(QinZooError, match="is no ONNX file"):
        worst(tmp_path / "x.onnx")
    with pytest.raises(QinZooError, match="expected a run's record"):
        worst(tmp_path / "nothing")


def test_a_store_with_a_changed_result(trained, tmp_path):
    store = Store(tmp_path / "store")
    for entry in find_results([trained / "runs"]):
        store.add(entry)
    assert worst(tmp_path / "store")[0] == "ok"
    file = next((tmp_path / "store").glob("*/*.json"))
    content = json.loads(file.read_text())
    content["metrics"]["valid"]["AUC"] = 0.999
    file.write_text(json.dumps(content))
    assert worst(tmp_path / "store")[0] == "error"
