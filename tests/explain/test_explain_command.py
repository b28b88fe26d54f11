"""`qin-zoo explain` as a person uses it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import polars as pl
import pytest
from foreign import PLUGIN, foreign

from qin_zoo.cli import main
from qin_zoo.data.import_files import item_titles, original_ids

SMALL = ["--set", "epochs=1", "--set", "embedding_dim=4", "--set", "batch_size=512", "--set", "verbose=0"]


def qin_zoo(*args) -> int:
    """Runs a command in this process; its exit status."""
    with pytest.raises(SystemExit) as done:
        main([str(a) for a in args])
    return done.value.code or 0


@pytest.fixture(scope="module")
def data(sample, tmp_path_factory) -> Path:
    """The sample with ids and titles, as `qin-zoo data import` writes them."""
    folder = tmp_path_factory.mktemp("named") / "data"
    shutil.copytree(sample, folder)
    numbers = list(range(1, 100))
    titles = [f"Title | of [{n}] $x$" if n % 2 else ("映画" if n % 4 else None) for n in numbers]
    pl.DataFrame({"item_id": numbers, "original_id": [f"o{n}" for n in numbers]}).write_parquet(
        folder / "ids_item.parquet"
    )
    pl.DataFrame({"item_id": numbers, "item_title": titles}).write_parquet(folder / "item_text.parquet")
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """A folder in which a small QIN has been trained."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert qin_zoo("run", "QIN_sample", "--data", data, *SMALL) == 0
    return folder


@pytest.fixture
def run(trained, monkeypatch, data):
    """Explains in the folder of the trained model."""
    monkeypatch.chdir(trained)
    return lambda *args: qin_zoo("explain", "QIN_sample", "--data", data, *SMALL, *args)


def values(folder: Path, name: str) -> dict:
    return json.loads((folder / f"{name}.json").read_text())


def test_everything_is_written(run, tmp_path, capsys):
    assert run("--row", 7, "--out", tmp_path) == 0
    out = capsys.readouterr().out
    name = "QIN_sample.explain.valid.7"
    assert {f.name for f in tmp_path.iterdir()} == {f"{name}{s}" for s in (".md", ".json", ".png")}
    e = values(tmp_path, name)
    contributions = sum(f["contribution"] for f in e["features"])
    assert contributions - e["delta"] == pytest.approx(e["logit"] - e["baseline"], abs=1e-6)
    for feature in (f for f in e["features"] if f["part"] == "history"):
        places = sum(item["features"][feature["name"]] for item in e["history"])
        assert places == pytest.approx(feature["contribution"], abs=1e-6)  # padding adds nothing
    assert [item["place"] for item in e["history"]] == sorted(item["place"] for item in e["history"])
    assert all(item["weights"]["attention_layers"][0] >= 0 for item in e["history"])
    assert e["target"]["original_id"] == f"o{e['target']['item']}"
    assert f"logit {e['logit']:+.4f}" in out
    assert "convergence delta" in out
    assert "ASTA (attention_layers) lets" in out
    report = (tmp_path / f"{name}.md").read_text()
    assert f"{name}.png" in report
    assert r"Title \| of [" in report
    assert matplotlib.image.imread(tmp_path / f"{name}.png").shape[2] == 4


def test_the_score_is_that_of_predict(run, trained, tmp_path, data, monkeypatch):
    assert run("--row", 11, "--split", "test", "--out", tmp_path) == 0
    predictions = (trained / "checkpoints/sample/QIN_sample.prediction.csv").read_text().splitlines()
    e = values(tmp_path, "QIN_sample.explain.test.11")
    assert float(predictions[12].split(",")[1]) == pytest.approx(e["prediction"], abs=1e-6)


def test_beside_the_weights_of_a_record(trained, data, monkeypatch):
    monkeypatch.chdir(trained)
    assert qin_zoo("explain", "checkpoints/sample/QIN_sample.json", "--row", 0, "--data", data) == 0
    assert (trained / "checkpoints/sample/QIN_sample.explain.valid.0.png").is_file()


def test_named_fields(tiny_seq, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert qin_zoo("run", "DIN_tiny_seq", "--data", tiny_seq, "--set", "epochs=1") == 0
    assert qin_zoo("explain", "DIN_tiny_seq", "--data", tiny_seq, "--row", 3) == 0
    assert "DINAttention" in capsys.readouterr().out
    e = values(tmp_path / "checkpoints/tiny_seq", "DIN_tiny_seq.explain.valid.3")
    assert {f["name"] for f in e["features"] if f["part"] == "history"} == {"click_sequence"}
    assert {f["name"] for f in e["features"] if f["part"] == "target"} == {"adgroup_id"}
    assert e["complete"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--row", 600], "--row 600: the valid split of 'sample' has rows 0 to 599."),
        (["--row", -1], "--row -1: the valid split"),
        (["--row", 0, "--split", "trian"], "Unknown split 'trian': expected train, valid, test."),
        (["--row", 0, "--checkpoint", "none.model"], "No checkpoint at none.model"),
        (["--row", 0, "--set", "num_layers=1"], "QIN_sample.model"),
    ],
)
def test_mistakes(run, capsys, args, said):
    assert run(*args) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("model", ["TripleNet", "FieldsNet"])
def test_a_model_that_reads_its_own_batches(model, tmp_path, capsys, data, tiny_seq):
    folder = tiny_seq if model == "FieldsNet" else data
    prepared = foreign(model, folder, tmp_path / "x")
    args = [prepared.expid, "--config", tmp_path / "x", "--plugin", PLUGIN, "--data", folder]
    assert qin_zoo("run", *args) == 0
    row = first_with_history(prepared)
    assert qin_zoo("explain", *args, "--row", row, "--out", tmp_path) == 0
    assert f"{model} has no layer of the zoo that gives the history's items weights" in capsys.readouterr().out
    e = values(tmp_path, f"{prepared.expid}.explain.valid.{row}")
    assert e["complete"]
    assert e["left_out"] == []
    assert (e["target"] is None) == (model == "FieldsNet"), "no field says that it is the target"
    assert {f["name"] for f in e["features"]} == set(load_names(prepared))
    assert e["history"]
    assert all(item["item"]["item"] > 0 for item in e["history"])


def first_with_history(prepared) -> int:
    loader = prepared.open_dataset().loader("valid")
    batch = loader.batch(np.arange(100))
    items = batch["click_sequence"] if isinstance(batch, dict) else batch[2]
    return int((items != 0).any(1).nonzero()[0])


def load_names(prepared) -> list[str]:
    specs = prepared.open_dataset().feature_map.features
    return [name for name, spec in specs.items() if spec["type"] != "meta"]


def test_the_row_is_asked_for(run, capsys):
    assert run() == 2


def test_names_of_items(data, tmp_path):
    assert original_ids(data / "ids_item.parquet")[3] == "o3"
    assert item_titles(data, [1, 2, 4]) == {1: "Title | of [1] $x$", 2: "映画"}
    assert original_ids(tmp_path / "ids_item.parquet") == item_titles(tmp_path, [1]) == {}
    pl.DataFrame({"item_id": [1], "text": ["raw"]}).write_parquet(tmp_path / "item_text.parquet")
    assert item_titles(tmp_path, [1]) == {1: "raw"}


def test_nothing_is_imported_before_it_is_needed():
    code = "import sys, qin_zoo.cli, qin_zoo.experiment.run; assert not {'captum', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_the_calibrated_score_is_the_one_that_predict_writes(method, run, data, trained, tmp_path, capsys):
    assert qin_zoo("calibrate", "QIN_sample", "--data", data, "--method", method, *SMALL) == 0
    try:
        assert qin_zoo("predict", "QIN_sample", "--data", data, "--split", "valid", "--out", tmp_path, *SMALL) == 0
        written = pl.read_csv(tmp_path / "QIN_sample.valid.prediction.csv")["Task2"][7]
        capsys.readouterr()
        assert run("--row", 7, "--out", tmp_path) == 0
        e = values(tmp_path, "QIN_sample.explain.valid.7")
        assert e["calibrated"] == pytest.approx(written, abs=1e-6)
        assert e["prediction"] == pytest.approx(1 / (1 + 2.718281828459045 ** -e["logit"]), abs=1e-5)
        assert f"score {e['prediction']:.4f}, calibrated {written:.4f}" in capsys.readouterr().out
    finally:
        for file in (trained / "checkpoints/sample").glob("*.calibration.*"):
            file.unlink()


def test_a_row_of_a_part_is_the_row_of_the_file(run, data, tmp_path, capsys):
    """Predictions of a train split of which a part is used have the file's rows as IDs; so has --row."""
    part = ("--set", "train_fraction=0.3")
    assert qin_zoo("predict", "QIN_sample", "--data", data, "--split", "train", "--out", tmp_path, *SMALL, *part) == 0
    written = pl.read_csv(tmp_path / "QIN_sample.train.prediction.csv")
    row, score = written["ID"][5], written["Task2"][5]
    assert row > 5
    assert run("--row", row, "--split", "train", "--out", tmp_path, *part) == 0
    e = values(tmp_path, f"QIN_sample.explain.train.{row}")
    assert e["prediction"] == pytest.approx(score, abs=1e-6)
    assert e["label"] == pl.read_parquet(data / "train.parquet")["label"][row]
    unused = next(r for r in range(3000) if r not in set(written["ID"]))
    assert run("--row", unused, "--split", "train", "--out", tmp_path, *part) == 1
    assert "of which the run uses a part" in capsys.readouterr().err
