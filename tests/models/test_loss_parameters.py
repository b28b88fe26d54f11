"""Losses as parameters of a model: weights, mixes, columns, several processes, and the published mixture."""

import json

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, VOCAB, item_table_feature_map, random_item_batch
from processes import together
from torch.nn import functional as F

import qin_zoo
from qin_zoo.batch import ItemBatch
from qin_zoo.config.schema import check_params
from qin_zoo.distributed import joined
from qin_zoo.errors import ConfigError, ModelError
from qin_zoo.layers.losses import focal_loss, listwise_loss, pairwise_loss
from qin_zoo.models.loss import Loss

LOSSES = {
    "weighted": {"pos_weight": 0.4, "neg_weight": 1.5},
    "published": {"loss": "published", "pos_weight": 3.0},
    "focal": {"loss": "focal", "focal_gamma": 1.5, "pos_weight": 0.25, "neg_weight": 0.75},
    "pairwise": {"loss": "pairwise", "loss_alpha": 0.8, "pos_weight": 0.4},
    "jrc": {"loss": "jrc", "loss_context": "group"},
    "jrc of the batch": {"loss": "jrc", "loss_alpha": 0.3},
    "weights": {"loss": "pairwise", "sample_weight": "weight"},
}


# Losses that are no sums over rows, of several outputs, through a batch norm.
HEADS = {
    "FCN": {"num_heads": 2, "num_deep_cross_layers": 2, "num_shallow_cross_layers": 1, "loss": "pairwise"},
    "FSDNet": {"parallel_dnn_hidden_units": [6, 6], "num_cross_layers": 2, "pos_weight": 3.0},
}


def model(feature_map=None, name="MLP", **params):
    torch.manual_seed(0)
    feature_map = feature_map or item_table_feature_map(VOCAB, 8, group_id="user_id")
    options = {"embedding_dim": 4, "verbose": 0, "metrics": ["AUC"], "optimizer": "SGD", "model_root": ".", **params}
    options |= {"dnn_hidden_units": [8]} if name == "MLP" else {}
    return qin_zoo.create_model(name, feature_map, **options)


def batch_of(rows=24):
    batch = random_item_batch(VOCAB, 8, batch=rows)
    batch.rows["weight"] = torch.rand(rows, generator=torch.Generator().manual_seed(5)) * 2
    return batch


def expected(logits, y, batch, name):
    """From torch's cross entropy and the losses that have tests of their own."""
    z, y, ones = logits.view(-1), y.view(-1), torch.ones(len(y))
    w, users, bce = batch.rows["weight"], batch.rows["user_id"], F.binary_cross_entropy_with_logits
    return {
        "weighted": lambda: 1.5 * bce(z, y, pos_weight=torch.tensor(0.4 / 1.5)),
        "published": lambda: bce(z, y, pos_weight=torch.tensor(3.0)),
        "focal": lambda: (torch.where(y == 1, 0.25, 0.75) * focal_loss(z, y, 1.5)).mean(),
        "pairwise": lambda: 0.8 * bce(z, y, pos_weight=torch.tensor(0.4)) + 0.2 * pairwise_loss(z, y, ones),
        "jrc": lambda: 0.5 * bce(z, y) + 0.5 * listwise_loss(z, y, ones, users),
        "jrc of the batch": lambda: 0.3 * bce(z, y) + 0.7 * listwise_loss(z, y, ones),
        "weights": lambda: 0.5 * bce(z, y, w) + 0.5 * pairwise_loss(z, y, w),
    }[name]()


@pytest.mark.parametrize("name", LOSSES)
def test_what_the_parameters_say(name):
    ours, batch = model(**LOSSES[name]).train(), batch_of()
    found, y = ours(batch), ours.get_labels(batch)
    torch.testing.assert_close(ours.add_loss(found, y), expected(found["logits"], y, batch, name))


def step_of(name, batch, group=None):
    ours = model(**LOSSES[name]) if name in LOSSES else model(name=name, **HEADS[name])
    ours.optimizer.param_groups[0]["lr"] = 1.0
    ours._max_gradient_norm, ours._batch_index, ours._steps_per_epoch = 1e9, 0, 1
    if group is not None:
        ours.join(group)
        part = np.array_split(np.arange(len(batch)), group.size)[group.rank]
        rows = {n: v[part] for n, v in batch.rows.items()}
        batch = ItemBatch(rows, batch.history[part], batch.target[part], batch.items)
    loss = ours.train().train_step(batch).item()
    return loss, torch.cat([p.detach().view(-1) for p in ours.parameters()]).tolist()


def test_several_processes_make_one_batch():
    """25 rows of two processes: 13 and 12; one step of plain gradient descent says the gradient."""
    batch = batch_of(25)

    def steps():
        with joined(-1) as group:
            return {name: step_of(name, batch, group) for name in (*LOSSES, *HEADS)}

    for found in together(2, steps):
        for name, (loss, weights) in found.items():
            want = step_of(name, batch)
            assert loss == pytest.approx(want[0], rel=1e-5), name
            weights, wanted = torch.tensor(weights), torch.tensor(want[1])
            torch.testing.assert_close(weights, wanted, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("name", ["pairwise", "jrc"])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_and_nan(name, label):
    ours, batch = model(**LOSSES[name]).train(), batch_of()
    batch.rows["label"][:] = label
    found = ours(batch)
    assert torch.isfinite(ours.add_loss(found, ours.get_labels(batch)))
    found["logits"] = found["logits"] * torch.nan
    assert ours.add_loss(found, ours.get_labels(batch)).isnan()


def test_the_published_mixture():
    """DIN_att_emb_rms: its loss is that of its logits and its penalty, which only weights enter."""
    arrays = np.load(REPOSITORY / "tests/golden/din_att_rms_published.npz")
    meta = json.loads(arrays["meta"].item())["hyperparameters"]
    z = torch.from_numpy(arrays["train/y_pred"]).double().logit().float()
    y = torch.from_numpy(arrays["input/label"]).float()
    loss = Loss("pairwise", F.binary_cross_entropy, torch.sigmoid, 0.4, 1.0, meta["alpha"], 2.0, "batch", None, None)
    penalty = sum(
        (meta["embedding_regularizer"] if name.startswith("grad/embedding_layer") else meta["net_regularizer"])
        / 2
        * (arrays[name.replace("grad/", "state/")].astype(np.float64) ** 2).sum()
        for name in arrays.files
        if name.startswith("grad/")
    )
    assert loss(z, y, {}).item() + penalty == pytest.approx(arrays["train/loss"].item(), abs=1e-6)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"loss_context": "group"}, "loss jrc alone"),
        ({"loss": "mse_loss", "pos_weight": 2.0}, "for labels 0 and 1"),
    ],
)
def test_parameters_that_do_not_go_together(params, message):
    with pytest.raises(ModelError, match=message):
        model(**params)
    with pytest.raises(ModelError, match="set group_id"):
        model(item_table_feature_map(VOCAB, 8), loss="jrc", loss_context="group")


@pytest.mark.parametrize(
    ("key", "value"), [("loss_alpha", 1.5), ("pos_weight", -1), ("focal_gamma", "much"), ("loss_context", "row")]
)
def test_the_schema_refuses(key, value):
    with pytest.raises(ConfigError, match=f"'{key}'"):
        check_params({"model": "MLP", key: value}, qin_zoo.get_model("MLP"))


def test_a_batch_without_the_column():
    ours, batch = model(sample_weight="weight").train(), batch_of()
    del batch.rows["weight"]
    with pytest.raises(ModelError, match="needs the column 'weight'"):
        ours(batch)
    ours.eval()(batch)  # scoring needs none
