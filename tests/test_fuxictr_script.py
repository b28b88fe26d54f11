"""FuxiCTR's own script trains the models of the zoo as `qin-zoo run` does, and leaves its users' files alone."""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from conftest import REPOSITORY
from synthetic import write_dataset

import model_zoo  # noqa: F401  # teaches FuxiCTR
from qin_zoo.config.experiments import check_params
from qin_zoo.data.dataset import Dataset
from qin_zoo.data.encode import encode_fields
from qin_zoo.data.sample import write_sample
from qin_zoo.errors import ConfigError
from qin_zoo.experiment.predict import predict_split
from qin_zoo.experiment.prepare import prepare
from qin_zoo.experiment.run import run_experiment
from qin_zoo.registry import get_model

MODELS = ("QIN", "DIN", "DIN_SENet", "Transformer_DCN")
DATASETS = ("tiny_seq", "fields_example", "sample", "MicroLens_1M_x1")
EXPIDS = [f"{model}_{dataset}" for model in MODELS for dataset in DATASETS]
SMALL = {"epochs": 2, "batch_size": 64, "verbose": 0}


def dataset_blocks() -> dict:
    """Of all datasets; a feature of a row each of two of them is unknown in some training rows."""
    files = sorted((REPOSITORY / "dataset_configs").glob("*.yaml"))
    blocks = {name: block for file in files for name, block in yaml.safe_load(file.read_text()).items()}
    for dataset, place in (("sample", 2), ("fields_example", 3)):
        blocks[dataset]["feature_cols"][place]["unknown_rate"] = 0.3
    return blocks


def experiment(model: str, dataset: str) -> dict:
    """The settings for the sample, on any of the datasets."""
    blocks = yaml.safe_load((REPOSITORY / "experiments" / model / "model_config.yaml").read_text())
    ungrouped = {"metrics": ["AUC", "logloss"], "group_id": None} if dataset == "tiny_seq" else {}
    return {**blocks["Base"], **blocks[f"{model}_sample"], **SMALL, **ungrouped, "dataset_id": dataset}


class World:
    """A folder in which FuxiCTR's script lies, with its configuration and its data."""

    def __init__(self, folder: Path, tiny_seq: Path):
        self.folder, data = folder, folder / "data"
        (folder / "config").mkdir(parents=True)
        configs = {"dataset": dataset_blocks(), "model": {e: experiment(*split(e)) for e in EXPIDS}}
        for kind, blocks in configs.items():
            (folder / "config" / f"{kind}_config.yaml").write_text(yaml.safe_dump(blocks))

        shutil.copytree(tiny_seq, data / "tiny_seq", ignore=shutil.ignore_patterns(".*"))
        write_sample(data / "sample", rows=300, items=60, seed=1, valid_rows=120, test_rows=100, progress=False)
        microlens = {"dataset_id": "MicroLens_1M_x1", **configs["dataset"]["MicroLens_1M_x1"]}
        test = write_dataset(microlens, data / "MicroLens_1M_x1") / "test.parquet"
        pl.read_parquet(test).drop("label").write_parquet(test)  # as in the challenge
        file = REPOSITORY / "experiments" / "fields_example" / "make_data.py"
        spec = importlib.util.spec_from_file_location("fields_example", file)
        example = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(example)
        example.ROWS = {"train": 300, "valid": 100, "test": 100}
        example.main(data / "fields_example")
        self.before = self.hashes()

    def hashes(self) -> dict[str, str]:
        """Of every file of the data, but for what our cache holds and the csv files are encoded to."""
        files = [file for file in (self.folder / "data").rglob("*") if file.is_file()]
        ours = [f for f in files if f.parent.name.startswith("encoded-") or ".qin_zoo_cache" in f.parts]
        return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f not in ours}

    def script(self, expids, **options) -> dict:
        """What FuxiCTR's script gets, started from elsewhere."""
        shutil.copy(REPOSITORY / "tests" / "fuxictr_run.py", self.folder / "run_expid.py")
        out = self.folder / "out.json"
        arguments = json.dumps({"out": str(out), "expids": list(expids), **options})
        done = subprocess.run(
            [sys.executable, str(self.folder / "run_expid.py"), arguments],
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": str(torch.get_num_threads())},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(out.read_text())


def split(expid: str) -> tuple[str, str]:
    dataset = next(d for d in DATASETS if expid.endswith(d))
    return expid.removesuffix(f"_{dataset}"), dataset


def prepared(expid: str, **overrides):
    return prepare(expid, Path("config"), overrides={"model_root": "./ours/", **overrides})


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_seq):
    """Every experiment, first by FuxiCTR's script in a process of its own, then by `qin-zoo run`; nothing written."""
    world = World(tmp_path_factory.mktemp("world") / "where", tiny_seq)
    theirs = world.script(EXPIDS)
    after = world.hashes()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world.folder)
        ours = {e: run_experiment(prepared(e), world.folder, echo=lambda _: None) for e in EXPIDS}
    return world, theirs, ours, after


@pytest.mark.slow
def test_metrics_and_weights_are_those_of_qin_zoo_run(runs):
    world, theirs, ours, _ = runs
    for expid in EXPIDS:
        assert theirs[expid]["valid"] == ours[expid]["valid"] != {}, expid
        assert theirs[expid]["test"] == ours[expid]["test"], expid
        has_labels = split(expid)[1] in ("tiny_seq", "fields_example")
        assert bool(ours[expid]["test"]) == has_labels
        files = [world.folder / root / split(expid)[1] / f"{expid}.model" for root in ("checkpoints", "ours")]
        states = [torch.load(file, weights_only=True) for file in files]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0]), expid


@pytest.mark.slow
def test_no_file_of_the_data_changes_and_ray_does_not_start(runs):
    world, theirs, _, after = runs
    assert after == world.before
    assert not any(result["ray"] for result in theirs.values())


@pytest.mark.slow
def test_other_scripts(runs, monkeypatch):
    """One of earlier 2.x, with its imports in another order; and one that predicts, with the weights of either run."""
    world, theirs, ours, _ = runs
    monkeypatch.chdir(world.folder)
    chosen = [f"DIN_{dataset}" for dataset in DATASETS]
    for expid, found in world.script(chosen, zoo_first=True, only_csv=True, weights="./ours/").items():
        predictions = found.pop("predicted")
        assert found == theirs[expid]
        weights = world.folder / "checkpoints" / split(expid)[1] / f"{expid}.model"
        files = predict_split(prepared(expid), checkpoint=weights, out=world.folder / "out", echo=lambda _: None)
        for file in (files.prediction, ours[expid]["files"]["prediction"]):
            np.testing.assert_allclose(pl.read_csv(file)["Task2"].to_numpy(), predictions, rtol=1e-5, atol=1e-7)
    assert world.hashes() == world.before


def test_reading_the_feature_map_draws_no_random_number(tmp_path):
    """A seed set before it, as in the script, is the one the model is initialised from."""
    from fuxictr.features import FeatureMap

    params = {"model": "QIN", **dataset_blocks()["fields_example"], "dataset_id": "fields_example", "embedding_dim": 4}
    params["target_field"] = params["sequence_field"] = None
    params["feature_cols"][3]["feature_encoder"] = "nn.Linear(4, 4)"
    write_dataset(params, tmp_path / "data")
    files = {f"{s}_data": str(tmp_path / "data" / f"{s}.csv") for s in ("train", "valid", "test")}
    encoded = encode_fields({**params, **files, "data_root": str(tmp_path)})
    torch.manual_seed(1)
    before = torch.get_rng_state()
    FeatureMap("fields_example", str(tmp_path)).load("nowhere", {**encoded, "data_format": "csv"})
    assert torch.equal(torch.get_rng_state(), before)


class TestOthers:
    """What is not the zoo's stays FuxiCTR's."""

    @pytest.fixture
    def params(self, tiny_seq, tmp_path):
        folder = shutil.copytree(tiny_seq, tmp_path / "tiny_seq", ignore=shutil.ignore_patterns(".*"))
        files = {f"{split}_data": str(folder / f"{split}.npz") for split in ("train", "valid", "test")}
        return {"dataset_id": "tiny_seq", "data_root": str(tmp_path), "data_format": "npz", **files}

    def test_another_models_files_are_fuxictrs(self, params, tmp_path):
        from fuxictr.features import FeatureMap
        from fuxictr.preprocess import FeatureProcessor, build_dataset
        from fuxictr.pytorch.dataloaders import RankDataLoader
        from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader

        params |= {"model": "xDeepFM", "rebuild_dataset": False}
        feature_map = FeatureMap("tiny_seq", str(tmp_path / "tiny_seq"))
        feature_map.load(str(tmp_path / "tiny_seq" / "feature_map.json"), params)
        assert all(type(gen) is NpzDataLoader for gen in RankDataLoader(feature_map, **params))
        build_dataset(FeatureProcessor(**params), **params)
        assert json.loads((tmp_path / "tiny_seq" / "feature_map.json").read_text())["features"] == []

    def test_a_loader_that_is_asked_for_is_used(self, params, tmp_path):
        from fuxictr.features import FeatureMap
        from fuxictr.pytorch.dataloaders import RankDataLoader
        from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader

        feature_map = FeatureMap("tiny_seq", str(tmp_path / "tiny_seq"))
        feature_map.load(str(tmp_path / "tiny_seq" / "feature_map.json"), params | {"model": "QIN"})
        loaders = RankDataLoader(feature_map, model="QIN", data_loader=NpzDataLoader, **params)
        assert all(type(loader) is NpzDataLoader for loader in loaders)

    def test_fuxictr_reads_csv_with_the_polars_that_is_pinned(self, tmp_path):
        from fuxictr.preprocess import FeatureProcessor

        (tmp_path / "train.csv").write_text("user,price,click\na,1.5,1\nb,,0\n")
        user, price = {"name": "user", "dtype": "str", "type": "meta"}, {"name": "price", "dtype": "float"}
        columns, label = [user, {**price, "type": "numeric"}], {"name": "click", "dtype": "float"}
        processor = FeatureProcessor(columns, label, "d", str(tmp_path), model="xDeepFM")
        frame = processor.preprocess(processor.read_data(str(tmp_path / "train.csv"))).collect()
        assert frame.to_dict(as_series=False) == {"click": [1.0, 0.0], "price": [1.5, 0.0], "user": ["a", "b"]}


def test_csv_files_in_blocks_are_one_file_of_ours(tmp_path):
    """FuxiCTR's build_dataset names a folder of blocks, which for these models is the encoded file."""
    from fuxictr.features import FeatureMap
    from fuxictr.preprocess import FeatureProcessor, build_dataset
    from fuxictr.pytorch.dataloaders import RankDataLoader

    params = {**dataset_blocks()["fields_example"], "dataset_id": "fields_example", "model": "QIN"}
    write_dataset(params, tmp_path / "data")
    params |= {f"{s}_data": str(tmp_path / "data" / f"{s}.csv") for s in ("train", "valid", "test")}
    params |= {"data_root": str(tmp_path), "data_block_size": 10, "batch_size": 16, "shuffle": False}
    raw, named = Dataset(params), build_dataset(FeatureProcessor(**params), **params)
    params |= dict(zip(("train_data", "valid_data", "test_data"), named))
    feature_map = FeatureMap("fields_example", str(tmp_path))
    feature_map.load(str(tmp_path / "fields_example" / "feature_map.json"), params)
    for split_, batches in zip(("train", "valid", "test"), RankDataLoader(feature_map, **params), strict=True):
        for got, want in zip(batches, raw.loader(split_), strict=True):
            assert got.keys() == want.keys()
            assert all(torch.equal(got[name], want[name]) for name in want)


def test_an_item_table_that_fuxictr_would_encode_is_refused(sample):
    from fuxictr.preprocess import FeatureProcessor

    params = {**dataset_blocks()["sample"], "dataset_id": "sample", "model": "QIN"}
    del params["rebuild_dataset"]
    with pytest.raises(ConfigError, match=r"rebuild_dataset: False"):
        FeatureProcessor(**params)


def test_what_only_our_runs_do_is_said(sample, caplog):
    from fuxictr.preprocess import FeatureProcessor

    params = {**dataset_blocks()["sample"], "dataset_id": "sample", "model": "QIN", "recipe": "published"}
    FeatureProcessor(**params)
    assert not caplog.messages
    FeatureProcessor(**params | {"recipe": "small", "ema_decay": 0.999})
    assert [m for m in caplog.messages if "recipe, ema_decay: left out" in m]


def test_nothing_in_a_configuration_is_evaluated_for_a_model_of_the_zoo(tmp_path):
    from fuxictr.preprocess import FeatureProcessor

    bad = f"open({str(tmp_path / 'made')!r}, 'w')"
    columns = [{"name": "user", "dtype": bad, "type": "categorical", "active": True}]
    with pytest.raises(ConfigError, match="dtype"):
        FeatureProcessor(feature_cols=columns, label_col=[], dataset_id="d", data_root=str(tmp_path), model="QIN")
    assert not list(tmp_path.iterdir())


def test_fuxictrs_tuner_takes_the_tuner_files(tmp_path):
    """Those of ours that it has a word for: it knows lists, and no ranges."""
    from fuxictr.autotuner import enumerate_params, load_experiment_ids
    from fuxictr.utils import load_config

    from qin_zoo.tuning.space import read_space

    shutil.copytree(REPOSITORY / "experiments", tmp_path / "experiments", ignore=shutil.ignore_patterns("results"))
    files = [f for f in sorted((tmp_path / "experiments").glob("*/tune_*.yaml")) if read_space(f).is_grid]
    assert files
    for file in files:
        space = read_space(file)
        folder = enumerate_params(str(file))
        expids = load_experiment_ids(folder)
        assert expids == sorted(space.trial_expid(i + 1, space.point(i)) for i in range(space.size))
        for expid in expids:
            params = load_config(folder, expid)
            check_params(params, get_model(params["model"]))


def test_every_experiment_may_be_the_base_of_fuxictrs_tuner():
    """It looks these two up in every configuration."""
    for file in (REPOSITORY / "experiments").glob("*/model_config.yaml"):
        assert "debug_mode" in yaml.safe_load(file.read_text())["Base"], file
    assert all("data_format" in block for block in dataset_blocks().values())
