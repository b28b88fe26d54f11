"""FuxiCTR's own pipeline, written as its run_expid.py writes it, with this repository on the path."""

import json
import logging

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, experiments
from public_files import CSV, PER_USER, write_public
from synthetic import write_dataset
from torch import nn

import qin_zoo


def fuxictr_params(model: str, tiny_seq, tmp_path) -> dict:
    from fuxictr.utils import load_config

    params = load_config(str(REPOSITORY / "experiments" / model), f"{model}_tiny_seq")
    files = {f"{s}_data": str(tiny_seq / f"{s}.npz") for s in ("train", "valid", "test")}
    return {**params, **files, "gpu": -1, "model_root": str(tmp_path), "verbose": 0}


@pytest.mark.parametrize("model_name", ["QIN", "DIN"])
def test_trains_on_tiny_seq(model_name, tiny_seq, tmp_path, caplog):
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders import RankDataLoader
    from fuxictr.pytorch.torch_utils import seed_everything

    import model_zoo

    params = fuxictr_params(model_name, tiny_seq, tmp_path)
    params["epochs"] = 6
    params["learning_rate"] = 0.01
    seed_everything(seed=params["seed"])
    feature_map = FeatureMap(params["dataset_id"], str(tiny_seq))
    feature_map.load(str(tiny_seq / "feature_map.json"), params)
    model_class = getattr(model_zoo, params["model"])
    model = model_class(feature_map, **params)
    model.count_parameters()
    train_gen, valid_gen = RankDataLoader(feature_map, stage="train", **params)
    with torch.no_grad():
        before = np.mean([float(model.compute_loss(model(b), model.get_labels(b))) for b in train_gen])
    with caplog.at_level(logging.INFO):
        model.fit(train_gen, validation_data=valid_gen, **params)
    losses = [float(m.split(": ")[1]) for m in caplog.messages if m.startswith("Train loss")]
    assert losses[-1] < before
    valid_result = model.evaluate(valid_gen)
    test_result = model.evaluate(RankDataLoader(feature_map, stage="test", **params))
    assert valid_result.keys() == test_result.keys() == {"AUC", "logloss"}
    assert (tmp_path / "tiny_seq" / f"{model_name}_tiny_seq.model").exists()


class FuxiStyleDIN(nn.Module):
    """DIN as FuxiCTR's zoo arranges FuxiCTR's layers: the DNN sees all fields in the order of the feature map,
    the sequence replaced by its pooled interest."""

    def __init__(self, feature_map, embedding_dim, attention_hidden_units, dnn_hidden_units):
        from fuxictr.pytorch.layers import DIN_Attention, FeatureEmbeddingDict, MLP_Block

        super().__init__()
        self.embedding = FeatureEmbeddingDict(feature_map, embedding_dim)
        self.attention = DIN_Attention(embedding_dim, attention_hidden_units, hidden_activations="Dice")
        self.dnn = MLP_Block(feature_map.sum_emb_out_dim(), dnn_hidden_units, output_dim=1)

    def forward(self, batch):
        embedded = self.embedding({k: v for k, v in batch.items() if k != "clk"})
        mask = batch["click_sequence"].long() != 0
        embedded["click_sequence"] = self.attention(embedded["adgroup_id"], embedded["click_sequence"], mask)
        return torch.sigmoid(self.dnn(self.embedding.dict2tensor(embedded, flatten_emb=True)))


@pytest.mark.parametrize("training", [False, True])
def test_din_equals_fuxictrs(tiny_seq, tmp_path, training):
    """Same weights, same predictions, same gradients; our DNN sees [context; target; interest]."""
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders import RankDataLoader

    params = fuxictr_params("DIN", tiny_seq, tmp_path)
    feature_map = FeatureMap(params["dataset_id"], str(tiny_seq))
    feature_map.load(str(tiny_seq / "feature_map.json"), params)
    torch.manual_seed(0)
    ours = qin_zoo.create_model("DIN", feature_map, **params)
    e = params["embedding_dim"]
    theirs = FuxiStyleDIN(feature_map, e, params["attention_hidden_units"], params["dnn_hidden_units"])
    nn.init.normal_(ours.embedding_layer.embedding_layer.embedding_layers["adgroup_id"].weight)

    theirs.embedding.load_state_dict(ours.embedding_layer.embedding_layer.state_dict())
    theirs.attention.attention_layer.load_state_dict(ours.attention_layers.attention_layer.state_dict())
    theirs.dnn.load_state_dict(ours.dnn.state_dict())
    fields = list(feature_map.features)
    our_order = [f for f in fields if f not in ("adgroup_id", "click_sequence")] + ["adgroup_id", "click_sequence"]
    columns = torch.cat([torch.arange(e) + our_order.index(f) * e for f in fields])
    with torch.no_grad():
        theirs.dnn.mlp[0].weight.copy_(ours.dnn.mlp[0].weight[:, columns])

    ours.train(training), theirs.train(training)
    for batch in RankDataLoader(feature_map, stage="test", **params):
        y = ours.get_labels(batch)
        mine, want = ours(batch)["y_pred"], theirs(batch)
        torch.testing.assert_close(mine, want, atol=1e-6, rtol=1e-6)
        name = "adgroup_id"
        table, their_table = (
            ours.embedding_layer.embedding_layer.embedding_layers[name].weight,
            theirs.embedding.embedding_layers[name].weight,
        )
        (gradient,) = torch.autograd.grad(nn.functional.binary_cross_entropy(mine, y), table)
        (their_gradient,) = torch.autograd.grad(nn.functional.binary_cross_entropy(want, y), their_table)
        torch.testing.assert_close(gradient, their_gradient, atol=1e-7, rtol=1e-4)


@pytest.mark.slow
def test_every_experiment_resolves_in_both_ways():
    """Ours and FuxiCTR's reading of every experiment id in the repository agree."""
    from fuxictr.utils import load_config

    from qin_zoo.config.experiments import check_params, load_experiment
    from qin_zoo.registry import get_model

    assert {f"{m}_{d}" for m in ("QIN", "DIN") for d in ("MicroLens_1M_x1", "sample", "tiny_seq")} <= {
        e.expid for e in experiments()
    }
    for experiment in experiments():
        ours = load_experiment(experiment.config_dir, experiment.expid)
        assert dict(ours) == load_config(str(experiment.config_dir), experiment.expid)
        checked = check_params(ours, get_model(experiment.model))
        assert json.loads(json.dumps(checked)) == json.loads(json.dumps(ours)), "a pair of fields becomes a tuple"


EXPERIMENTS = experiments()
PUBLIC = [e for e in EXPERIMENTS if e.dataset_id in (*CSV, *PER_USER)]


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.expid)
def test_every_experiment_builds_its_model(experiment, tiny_seq, sample, tmp_path, monkeypatch):
    """Through our runner, and from what FuxiCTR's load_config reads; the published sizes need no data."""
    from fuxictr.utils import load_config

    from qin_zoo.data.dataset import open_feature_map
    from qin_zoo.errors import QinZooError
    from qin_zoo.experiment.prepare import build_model, prepare

    monkeypatch.chdir(tmp_path)
    for draw in ("normal_", "uniform_", "xavier_normal_", "xavier_uniform_", "kaiming_uniform_"):
        monkeypatch.setattr(torch.nn.init, draw, lambda tensor, *args, **kwargs: tensor)  # a hundred million numbers
    params = load_config(str(experiment.config_dir), experiment.expid)
    prepared, dataset = prepare(experiment.expid, experiment.config_dir), None
    try:
        feature_map = open_feature_map(prepared.params)
    except QinZooError:  # sizes that the configuration leaves to the data
        assert not experiment.dataset_id.startswith("MicroLens")
        data = {"tiny_seq": tiny_seq, "sample": sample}.get(experiment.dataset_id)
        data = data or write_public(experiment.dataset_id, tmp_path / "data")
        data = data or write_dataset(params, tmp_path / "data")
        cache = ["cache_dir=cache", "data_root=encoded"]
        prepared = prepare(experiment.expid, experiment.config_dir, data=data, overrides=cache)
        dataset = prepared.open_dataset()
        feature_map = dataset.feature_map
    ours = build_model(prepared, dataset)
    theirs = qin_zoo.create_model(params["model"], feature_map, **params)
    assert ours.count_parameters() == theirs.count_parameters() > 0
    if experiment.expid == "QIN_MicroLens_1M_x1":
        assert ours.count_parameters() == 31_244_293


@pytest.mark.slow
@pytest.mark.parametrize("experiment", PUBLIC, ids=lambda e: e.expid)
def test_leaderboard_experiments_run_on_the_public_columns(experiment, tmp_path, monkeypatch):
    from qin_zoo.experiment.prepare import prepare
    from qin_zoo.experiment.run import run_experiment

    monkeypatch.chdir(tmp_path)
    data = write_public(experiment.dataset_id, tmp_path / "data")
    changes = ["epochs=1", "cache_dir=cache", "data_root=encoded", "model_root=checkpoints", "verbose=0"]
    prepared = prepare(experiment.expid, experiment.config_dir, data=data, overrides=changes)
    run_experiment(prepared, tmp_path, echo=lambda line: None)
    record = json.loads(prepared.files.record.read_text())
    for split in ("valid", "test"):
        assert {"AUC", "logloss", *(["gAUC"] if prepared.params.get("group_id") else [])} <= record[split].keys()
        assert np.isfinite(list(record[split].values())).all()
