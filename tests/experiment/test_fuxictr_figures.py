"""Models from elsewhere give the figures of FuxiCTR's own loop, which runs here in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from sklearn.metrics import log_loss
from torch.utils.data import DataLoader

from qin_zoo.data.dataset import Dataset
from qin_zoo.errors import ConfigError, ModelError
from qin_zoo.experiment.predict import predict_split
from qin_zoo.experiment.prepare import build_model, prepare
from qin_zoo.experiment.record import read_record
from qin_zoo.experiment.run import run_experiment
from qin_zoo.export.export import export_run
from qin_zoo.metrics import mode_of
from qin_zoo.results.entry import entry_of
from qin_zoo.results.store import Store
from qin_zoo.training.stop import Stopped, StopRequest

SEEDS = (1, 2)
MODELS = '''
import torch
from torch import nn
from fuxictr.pytorch.layers import FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel, MultiTaskModel


class Plain(BaseModel):
    """Dropout, batch norm, and a feature that no file holds."""

    def __init__(self, feature_map, model_id="Plain", gpu=-1, learning_rate=1e-3, embedding_dim=10, **kwargs):
        super().__init__(feature_map, model_id=model_id, gpu=gpu, **kwargs)
        self.embedding_layer = FeatureEmbedding(feature_map, embedding_dim)
        self.mlp = MLP_Block(
            embedding_dim * feature_map.num_fields, [16], "ReLU", 1, self.output_activation, 0.3, batch_norm=True
        )
        if kwargs.get("adds_feature"):
            feature_map.features["made_up"] = {"type": "categorical", "source": "", "vocab_size": 3}
        self.compile(kwargs["optimizer"], kwargs["loss"], learning_rate)
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs):
        x = self.embedding_layer(self.get_inputs(inputs))
        return {"y_pred": self.mlp(x.flatten(start_dim=1))}


class Towers(MultiTaskModel):
    """A bottom that is shared, and a tower for each label."""

    def __init__(
        self, feature_map, model_id="Towers", gpu=-1, task="binary_classification", num_tasks=1, learning_rate=1e-3,
        embedding_dim=10, **kwargs,
    ):
        super().__init__(feature_map, model_id=model_id, gpu=gpu, task=task, num_tasks=num_tasks, **kwargs)
        self.embedding_layer = FeatureEmbedding(feature_map, embedding_dim)
        self.bottom = MLP_Block(embedding_dim * feature_map.num_fields, [16], "ReLU", None, None, 0.3)
        self.towers = nn.ModuleList(nn.Linear(16, 1) for _ in range(num_tasks))
        self.compile(kwargs["optimizer"], kwargs["loss"], learning_rate)
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs):
        x = self.bottom(self.embedding_layer(self.get_inputs(inputs)).flatten(start_dim=1))
        towers = zip(self.feature_map.labels, self.towers, self.output_activation)
        return {f"{label}_pred": activation(tower(x)) for label, tower, activation in towers}
'''
# The order of its run_expid.py: seed, feature map, model, loaders, fit, evaluate.
FUXICTR = """
import json, logging, os, sys
logging.disable(logging.CRITICAL)
import fuxictr, torch
torch.set_num_threads(1)  # FuxiCTR's figures depend on their number
sys.path[:0] = ["plugin", os.path.join(os.path.dirname(os.path.dirname(fuxictr.__file__)), "model_zoo", "LongCTR")]
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.torch_utils import seed_everything
import models
from SIM import SIM
from longctr_dataloader import LongCTRDataLoader

assert "qin_zoo" not in sys.modules, "this is FuxiCTR alone"
found = {}
for name, params in json.load(open("runs.json")).items():
    os.makedirs(f"theirs/{params['dataset_id']}", exist_ok=True)
    params = {**params, "model_id": name, "model_root": "./theirs/", "gpu": -1, "verbose": 0}
    seed_everything(seed=params["seed"])
    feature_map = FeatureMap(params["dataset_id"], params["data_root"])
    feature_map.load(params["feature_map_json"], params)
    if "user_info" in params:
        params["data_loader"] = LongCTRDataLoader
    model = getattr(models, params["model"], SIM)(feature_map, **params)
    train, valid = RankDataLoader(feature_map, stage="train", **params)
    model.fit(train, validation_data=valid, **params)
    test = RankDataLoader(feature_map, stage="test", **params)
    found[name] = {"valid": model.evaluate(valid), "test": model.evaluate(test)}
json.dump(found, open("theirs.json", "w"), default=float)
"""
COMMON = {
    "batch_size": 16, "epochs": 3, "embedding_dim": 4, "learning_rate": 0.01, "optimizer": "adam", "shuffle": True,
    "loss": "binary_crossentropy", "task": "binary_classification", "metrics": ["AUC", "logloss"], "monitor": "AUC",
    "monitor_mode": "max", "early_stop_patience": 2, "embedding_regularizer": 1e-5, "num_workers": 0,
}  # fmt: skip
SIM = {"model": "SIM", "dnn_hidden_units": [8], "attention_dim": 4, "short_seq_len": 3, "topk": 3, "net_dropout": 0.2}


def write_fields(folder, labels):
    """100 rows of named fields in npz files, as FuxiCTR's tiny_seq."""
    sizes = {"user": 20, "item": 30, "weekday": 8}
    specs = [{n: {"source": "", "type": "categorical", "padding_idx": 0, "vocab_size": v}} for n, v in sizes.items()]
    counts = {"num_fields": 3, "total_features": 58, "input_length": 3}
    for split in write_map(folder, specs, labels, counts):
        columns = {name: GENERATOR.integers(1, size, 100) for name, size in sizes.items()}
        np.savez(folder / f"{split}.npz", **columns, **{label: (GENERATOR.random(100) < 0.4) * 1.0 for label in labels})
    return {"data_format": "npz"} | {f"{s}_data": str(folder / f"{s}.npz") for s in ("train", "valid", "test")}


def write_per_user(folder):
    """Rows that name users, as LongCTR's datasets; labels are integers, since its loader takes no others."""
    meta = [{name: {"type": "meta"}} for name in ("user_index", "item_index", "seq_len")]
    item = {"type": "categorical", "source": "item", "padding_idx": 0, "vocab_size": 30}
    splits = write_map(folder, [*meta, {"item_id": item}], ["click"], {"num_fields": 1, "total_features": 30})
    lists = [[0], *(GENERATOR.integers(1, 30, GENERATOR.integers(4, 12)).tolist() for _ in range(14))]
    pl.DataFrame({"user_index": range(15), "full_item_seq": lists}).write_parquet(folder / "user_info.parquet")
    pl.DataFrame({"item_index": range(30), "item_id": range(30)}).write_parquet(folder / "item_info.parquet")
    for split in splits:
        users = GENERATOR.integers(1, 15, 100)
        lengths = [int(GENERATOR.integers(1, len(lists[u]) + 1)) for u in users]
        rows = {"user_index": users, "item_index": GENERATOR.integers(1, 30, 100), "seq_len": lengths}
        pl.DataFrame({**rows, "click": GENERATOR.integers(0, 2, 100)}).write_parquet(folder / f"{split}.parquet")
    files = {f"{s}_data": str(folder / f"{s}.parquet") for s in splits}
    columns = [{"name": n, "type": "meta", "dtype": "int"} for n in ("user_index", "item_index", "seq_len")]
    columns.append({"name": "item_id", "dtype": "int", "type": "categorical", "source": "item", "vocab_size": 30})
    tables = {name: str(folder / f"{name}.parquet") for name in ("user_info", "item_info")}
    ours = {"feature_cols": columns, "label_col": {"name": "click", "dtype": "float"}, "rebuild_dataset": False}
    return {"data_format": "parquet", "max_len": 8, **files, **tables, **ours}


def write_map(folder, specs, labels, counts):
    folder.mkdir()
    feature_map = {"dataset_id": folder.name, **counts, "labels": labels, "features": specs}
    (folder / "feature_map.json").write_text(json.dumps(feature_map))
    return ("train", "valid", "test")


GENERATOR = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(folder, name -> parameters, name -> FuxiCTR's figures)."""
    folder = tmp_path_factory.mktemp("figures")
    (folder / "plugin").mkdir()
    (folder / "plugin" / "models.py").write_text(MODELS)
    fields, several = write_fields(folder / "fields", ["click"]), write_fields(folder / "several", ["click", "like"])
    towers = {"task": ["binary_classification"] * 2, "loss": ["binary_crossentropy"] * 2, "num_tasks": 2}
    kinds = {
        "Plain": {"dataset_id": "fields", "model": "Plain", **fields},
        "InOrder": {"dataset_id": "fields", "model": "Plain", **fields, "shuffle": False},
        "Towers": {"dataset_id": "several", "model": "Towers", **several, **towers},
        "SIM": {"dataset_id": "per_user", **SIM, **write_per_user(folder / "per_user")},
    }
    params = {}
    for kind, own in kinds.items():
        place = folder / own["dataset_id"]
        paths = {"data_root": str(folder), "feature_map_json": str(place / "feature_map.json")}
        params |= {f"{kind}_{seed}": {**COMMON, **paths, **own, "seed": seed} for seed in SEEDS}
    (folder / "runs.json").write_text(json.dumps(params))
    done = subprocess.run([sys.executable, "-c", FUXICTR], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, params, json.loads((folder / "theirs.json").read_text())


def prepared(runs, name, root, without=(), **changes):
    """The same experiment as a configuration of ours."""
    folder, params, _ = runs
    from_dataset = ("feature_cols", "label_col", "data_format", "data_root", "rebuild_dataset", "feature_map_json")
    own = {k: v for k, v in params[name].items() if k not in from_dataset and not k.endswith(("_data", "_info"))}
    config = root / "config"
    config.mkdir(exist_ok=True)
    dataset = {k: v for k, v in params[name].items() if k not in own}
    own = {k: v for k, v in own.items() if k not in without}
    (config / "dataset_config.yaml").write_text(yaml.safe_dump({own["dataset_id"]: dataset}))
    (config / "model_config.yaml").write_text(yaml.safe_dump({"Base": {}, name: own}))
    import model_zoo.LongCTR

    plugins = [folder / "plugin", Path(model_zoo.LongCTR.__path__[0]) / "SIM"]
    overrides = {"model_root": str(root / "ours"), "verbose": 0, "cache_dir": str(root / "cache"), **changes}
    return prepare(name, config, overrides=overrides, plugins=plugins)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["Plain", "InOrder", "Towers", "SIM"])
def test_figures_of_fuxictr(kind, seed, runs, tmp_path):
    """To the last digit: order of the rows, dropout, evaluations, the weights kept, metrics of every label."""
    name, said = f"{kind}_{seed}", []
    record = run_experiment(prepared(runs, name, tmp_path), tmp_path, echo=said.append)
    theirs = runs[2][name]
    assert record["valid"] == theirs["valid"]
    assert record["test"] == theirs["test"]
    assert any("as in FuxiCTR" in line for line in said) == (kind != "InOrder")


def test_a_column_for_each_label(runs, tmp_path):
    experiment = prepared(runs, "Towers_1", tmp_path)
    record = run_experiment(experiment, tmp_path, echo=lambda text: None)
    assert list(record["test"]) == ["click_AUC", "click_logloss", "like_AUC", "like_logloss", "AUC", "logloss"]
    assert record["evaluations"][0]["metrics"].keys() == record["test"].keys()
    predictions = pl.read_csv(experiment.files.prediction)
    assert predictions.columns == ["ID", "click", "like"]
    dataset = experiment.open_dataset()
    model = build_model(experiment, dataset)
    model.load_weights(str(experiment.files.checkpoint))
    theirs = model.predict(dataset.loader("test"))
    for label in ("click", "like"):
        assert predictions[label].to_list() == pytest.approx(theirs[label], abs=0)
    files = predict_split(experiment, "valid", echo=lambda text: None)
    assert pl.read_csv(files.prediction).columns == ["ID", "click", "like"]
    assert dataset.labels("test", "like").tolist() != dataset.labels("test", "click").tolist()


def test_one_model_for_two_labels(runs, tmp_path):
    experiment = prepared(runs, "Towers_1", tmp_path, ("num_tasks", "task", "loss"), model="Plain")
    with pytest.raises(ModelError, match=r"Plain predicts one label, and the data has 2: click, like. Leave one"):
        run_experiment(experiment, tmp_path, echo=lambda text: None)
    experiment = prepared(runs, "Towers_1", tmp_path, num_tasks=3)
    with pytest.raises(ModelError, match=r"num_tasks: expected 2, one for each label \(click, like\), found 3"):
        run_experiment(experiment, tmp_path, echo=lambda text: None)


def test_a_model_that_adds_a_feature(runs, tmp_path):
    """It is the model's own: rows are read for the features of the data."""
    experiment = prepared(runs, "Plain_1", tmp_path)
    experiment.params["adds_feature"] = True
    record = run_experiment(experiment, tmp_path, echo=lambda text: None)
    assert record["test"] == runs[2]["Plain_1"]["test"]


@pytest.mark.parametrize(("name", "step"), [("Plain_1", 3), ("Plain_1", 7), ("Towers_1", 10), ("SIM_1", 10)])
def test_stopped_and_resumed(name, step, runs, tmp_path, monkeypatch):
    """In the middle of an epoch, and between two: the order of the epoch goes on, and so does dropout."""
    experiment = prepared(runs, name, tmp_path, checkpoint_steps=1)

    class AtStep(StopRequest):
        @property
        def number(self):
            steps.append(1)
            return 15 if len(steps) == step else 0

    steps = []
    monkeypatch.setattr("qin_zoo.experiment.run.catch_signals", lambda patience: _Given(AtStep()))
    with pytest.raises(Stopped):
        run_experiment(experiment, tmp_path, echo=lambda text: None)
    monkeypatch.undo()
    record = run_experiment(experiment, tmp_path, echo=lambda text: None, resume=True)
    theirs = runs[2][name]
    assert (record["valid"], record["test"]) == (theirs["valid"], theirs["test"])


class _Given:
    def __init__(self, value):
        self.value = value

    def __enter__(self):
        return self.value

    def __exit__(self, *error):
        return False


@pytest.mark.parametrize("workers", [0, 1])
def test_random_numbers_of_torchs_loader(workers, runs):
    """Every epoch takes as many from the generator, and shuffled ones come in the same order."""
    params = {**runs[1]["Plain_1"], "cache_dir": None}
    dataset = Dataset(params, as_fuxictr=True)
    rows = torch.arange(100)
    for split, shuffle in (("train", True), ("valid", False)):
        torch.manual_seed(5)
        expected = [(b.tolist(), torch.rand(1)) for _ in range(2) for b in
                    DataLoader(rows, batch_size=16, shuffle=shuffle, num_workers=workers)]  # fmt: skip
        loader = dataset.loader(split)
        torch.manual_seed(5)
        seen = [(b.tolist(), torch.rand(1)) for _ in range(2) for b in loader.next_batches()]
        assert [b for b, _ in seen] == [b for b, _ in expected]
        if not workers:
            assert [r for _, r in seen] == [r for _, r in expected]
    before = torch.get_rng_state()
    loader = Dataset(params).loader("train")
    loader.next_batches()
    assert torch.equal(torch.get_rng_state(), before), "the zoo's own order follows from the seed alone"


def test_shuffle_fuxictr_for_the_zoos_models(sample):
    orders = {}
    for shuffle in (True, "fuxictr"):
        dataset = prepare("QIN_sample", data=sample, overrides={"shuffle": shuffle}).open_dataset()
        torch.manual_seed(3)
        orders[shuffle] = np.concatenate(dataset.loader("train").next_batches()).tolist()
    torch.manual_seed(3)
    theirs = [int(i) for i in DataLoader(range(3000), batch_size=None, shuffle=True)]
    assert orders["fuxictr"] == theirs != orders[True]


def test_results_of_several_labels_are_kept_and_no_export_is_promised(runs, tmp_path):
    experiment = prepared(runs, "Towers_1", tmp_path)
    record = run_experiment(experiment, tmp_path, echo=lambda text: None)
    store = Store(tmp_path / "store")
    assert store.add(entry_of(read_record(experiment.files.record))) == "new"
    (entry,) = store.entries()
    assert entry.values == record["test"]
    assert {mode_of(name) for name in entry.values if name.endswith("logloss")} == {"min"}
    with pytest.raises(ConfigError, match="Towers_1 predicts click, like: only models of one label are exported"):
        export_run(experiment, tmp_path / "m.onnx")


def test_a_label_of_one_class_has_no_auc(runs, tmp_path):
    """Of which FuxiCTR's log_loss makes an error, after the training."""
    changes = {}
    for split in ("valid", "test"):
        changes[f"{split}_data"] = str(tmp_path / f"{split}.npz")
        columns = dict(np.load(runs[1]["Towers_1"][f"{split}_data"]))
        np.savez(changes[f"{split}_data"], **{**columns, "like": np.zeros(100)})
    experiment = prepared(runs, "Towers_1", tmp_path, monitor="logloss", monitor_mode="min", **changes)
    found = run_experiment(experiment, tmp_path, echo=lambda text: None)["test"]
    predicted = pl.read_csv(experiment.files.prediction)["like"].to_numpy()
    assert found["like_logloss"] == pytest.approx(log_loss(np.zeros(100), predicted, labels=[0, 1]), rel=1e-6)
    assert np.isnan(found["like_AUC"])
    assert np.isfinite(found["click_AUC"])
