"""A model on a folder of data: what the folder says of itself, what is chosen, and going on from it."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from conftest import REPOSITORY

from qin_zoo.cli import main
from qin_zoo.data.dataset import Dataset
from qin_zoo.errors import ConfigError, DataError
from qin_zoo.experiment.from_data import describe_data
from qin_zoo.experiment.prepare import prepare
from qin_zoo.experiment.record import read_record

QUICK = [text for change in ("epochs=3", "batch_size=64", "learning_rate=0.02") for text in ("--set", change)]


def qin_zoo(*args) -> int:
    """Runs a command in this process; its exit status."""
    with pytest.raises(SystemExit) as done:
        main([str(a) for a in args])
    return done.value.code or 0


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write_csv_fields(folder: Path, rows: int = 400) -> None:
    """Raw fields that say what they are: a dataset_config.yaml beside csv files, with the paths of another machine."""
    folder.mkdir(parents=True)
    g = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        user, item, price = g.integers(0, 20, rows), g.integers(0, 9, rows), g.random(rows)
        click = (g.random(rows) < 0.2 + 0.6 * (item % 2)).astype(int)
        frame = {"user": [f"u{u}" for u in user], "item": [f"i{i}" for i in item], "price": price, "click": click}
        pl.DataFrame(frame).write_csv(folder / f"{split}.csv")
    columns = [
        {"name": "user", "active": True, "dtype": "str", "type": "categorical"},
        {"name": "item", "active": True, "dtype": "str", "type": "categorical"},
        {"name": "price", "active": True, "dtype": "float", "type": "numeric", "normalizer": "StandardScaler"},
    ]
    files = {f"{split}_data": f"/elsewhere/{split}.csv" for split in ("train", "valid", "test")}
    block = {"data_root": "/elsewhere/", "data_format": "csv", **files, "feature_cols": columns}
    block["label_col"] = {"name": "click", "dtype": "float"}
    (folder / "dataset_config.yaml").write_text(yaml.safe_dump({"shop": block}))


class TestWhatTheFilesSay:
    def test_the_challenges_layout_is_what_its_configuration_says(self, sample):
        """The configuration that was written by hand for these files, and the one read from them."""
        ours = Dataset({**describe_data(sample), "embedding_dim": 8}).feature_map
        by_hand = yaml.safe_load((REPOSITORY / "dataset_configs" / "sample.yaml").read_text())["sample"]
        files = {key: str(sample / Path(by_hand[key]).name) for key in by_hand if key.endswith(("_data", "_info"))}
        theirs = Dataset({**by_hand, **files, "dataset_id": "sample", "embedding_dim": 8}).feature_map
        sizes = [
            {n: {k: s[k] for k in ("type", "source", "vocab_size") if k in s} for n, s in m.features.items()}
            for m in (ours, theirs)
        ]
        for found in sizes:  # which are binary digits: the sample has not all of the eleven that are configured
            for level in ("likes_level", "views_level"):
                assert found[level].pop("vocab_size") <= 11
        assert sizes[0] == sizes[1]
        assert ours.labels == theirs.labels

    def test_columns_that_are_no_features_are_said(self, sample, tmp_path):
        folder = tmp_path / "more"
        shutil.copytree(sample, folder, ignore=shutil.ignore_patterns("truth", ".*", "sample.json"))
        for split in ("train", "valid", "test"):
            frame = pl.read_parquet(folder / f"{split}.parquet")
            frame.with_columns(pl.lit("x").alias("session"), pl.lit(0.5).alias("price")).write_parquet(
                folder / f"{split}.parquet"
            )
        params = describe_data(folder)
        kinds = {c["name"]: c["type"] for c in params["feature_cols"] if isinstance(c["name"], str)}
        assert kinds["price"] == "numeric"
        assert "session" not in kinds
        assert any("session" in note for note in params.notes)

    def test_encoded_fields_by_their_feature_map(self, tiny_seq):
        params = describe_data(tiny_seq)
        assert (params["target_field"], params["sequence_field"]) == (["adgroup_id"], ["click_sequence"])
        assert params["group_id"] == "userid"
        prepared = prepare("DIN", data=tiny_seq)
        assert prepared.params["metrics"] == ["AUC", "gAUC", "logloss"]
        assert len(prepared.open_dataset().labels("train")) == 100

    @pytest.mark.parametrize(
        ("files", "told"),
        [
            (None, r"no such folder.*qin-zoo data sample"),
            ({"a.txt": b""}, r"dataset_config\.yaml.*found a\.txt"),
            ({"train.npz": b"", "feature_map.json": b"[]"}, "expected FuxiCTR's feature map"),
        ],
    )
    def test_folders_that_say_nothing(self, files, told, tmp_path):
        folder = tmp_path / "f"
        for name, content in (files or {}).items():
            folder.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        with pytest.raises(DataError, match=told):
            prepare("QIN", data=folder)

    def test_rows_without_a_label(self, sample, tmp_path):
        folder = tmp_path / "unlabelled"
        shutil.copytree(sample, folder, ignore=shutil.ignore_patterns("truth", ".*"))
        pl.read_parquet(folder / "train.parquet").drop("label").write_parquet(folder / "train.parquet")
        with pytest.raises(DataError, match=r"expected a label.*label_col"):
            prepare("QIN", data=folder)


class TestRun:
    def test_run_predict_and_go_on_without_yaml(self, tmp_path, capsys):
        write_csv_fields(tmp_path / "data")
        assert qin_zoo("run", "DCNv2", "--data", "data", *QUICK) == 0
        said = capsys.readouterr().out
        assert "gAUC" in said
        folder = Path("checkpoints/shop")
        record = read_record(folder / "DCNv2.json")
        assert record["params"]["batch_size"] == 64, "what was set goes before the recipe"
        assert record["params"]["early_stop_patience"] > 2, "of the recipe"
        first = record["test"]
        assert first["AUC"] > 0.6, "it learns which items are clicked"

        config = re.search(r"--config (\S+)", said)[1]
        again = prepare("DCNv2", Path(config))
        assert json.loads(json.dumps(again.params, default=str)) == record["params"]
        assert qin_zoo("run", "DCNv2", "--config", config) == 0
        assert read_record(folder / "DCNv2.json")["test"] == first

        for run in (["DCNv2", "--data", "data", *QUICK], [str(folder / "DCNv2.json")]):
            assert qin_zoo("predict", *run) == 0
            assert f"AUC {first['AUC']:.6f}" in capsys.readouterr().out

    def test_without_a_recipe(self, tmp_path, capsys):
        write_csv_fields(tmp_path / "data")
        assert qin_zoo("run", "DCNv2", "--data", "data", "--set", "recipe=published", "--set", "epochs=1") == 0
        assert "recipe published: batch_size 1024, epochs 1, …" in capsys.readouterr().out

    def test_weights_are_averaged_unless_that_would_pass_over_lazy_tables(self, sample):
        assert prepare("DIN", data=sample).params["ema_decay"] == 0.999
        assert prepare("DIN", data=sample, overrides={"ema_decay": None}).params["ema_decay"] is None
        for lazy in ({"embedding_optimizer": "lazy"}, ["embedding_optimizer=lazy"]):
            assert "ema_decay" not in prepare("DIN", data=sample, overrides=lazy).params

    def test_numbers_to_be_met_have_the_metrics_of_numbers(self, sample, tmp_path):
        assert prepare("DIN", data=sample, overrides=["task=regression"]).params["metrics"] == ["MSE", "MAE"]
        write_csv_fields(tmp_path / "data")
        file = tmp_path / "data" / "dataset_config.yaml"
        file.write_text(file.read_text().replace("shop:\n", "shop:\n  task: regression\n"))
        assert prepare("DCNv2", data=tmp_path / "data").params["metrics"] == ["MSE", "MAE"]

    def test_what_is_written_has_the_name_of_the_run(self, tmp_path):
        write_csv_fields(tmp_path / "data")
        assert qin_zoo("run", "DCNv2", "--data", "data", *QUICK) == 0
        assert qin_zoo("run", "DCNv2", "--data", "data", *QUICK, "--set", "seed=2") == 0
        assert prepare("DCNv2-2", Path("checkpoints/shop/DCNv2-2.config")).params["seed"] == 2

    def test_a_model_alone_says_what_it_needs(self, capsys):
        assert qin_zoo("run", "QIN") == 1
        said = capsys.readouterr().err
        assert "`qin-zoo run QIN --data DIR`" in said
        assert "QIN_MicroLens_1M_x1" in said
        command = re.search(r"`qin-zoo (data sample [^`]*)`", said)[1].split()
        assert qin_zoo(*command, "--rows", 600, "--items", 50) == 0
        prepared = prepare("QIN", data=Path(command[-1]))
        assert prepared.open_dataset().rows("train") == 600

    def test_an_experiment_of_a_models_name_goes_first(self, sample, tmp_path):
        folder = tmp_path / "experiments" / "mine"
        folder.mkdir(parents=True)
        (folder / "model_config.yaml").write_text("QIN: {model: DIN, dataset_id: sample}\n")
        assert prepare("QIN", data=sample).params["model"] == "DIN"
        with pytest.raises(ConfigError, match="No experiment 'QINN'"):
            prepare("QINN", data=sample)


@pytest.mark.parametrize(
    ("expid", "told"),
    [
        ("QIN_sample", "`qin-zoo data sample data/sample`"),
        ("QIN_MicroLens_1M_x1", "`qin-zoo data download MicroLens_1M_x1`"),
        ("DIN_ml-100k", r"experiments/ml-100k/README\.md.*--data DIR"),
    ],
)
def test_data_that_are_not_there_say_where_they_come_from(expid, told):
    with pytest.raises(DataError, match=told):
        prepare(expid).open_dataset()
    with pytest.raises(DataError, match=told):
        prepare(expid, overrides={"recipe": "small"})


def test_a_minimal_configuration_trains_more_than_one_epoch(sample, tmp_path):
    (tmp_path / "model_config.yaml").write_text("X: {model: QIN, dataset_id: sample}\n")
    prepared = prepare("X", tmp_path, data=sample)
    assert prepared.params["epochs"] == 10
    assert any("epochs is not configured: 10 at most" in note for note in prepared.notes)
    assert not any("epochs" in note for note in prepare("QIN_sample", data=sample).notes)
