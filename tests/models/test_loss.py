"""The loss: FuxiCTR's published one where it is asked for, and what the default does better."""

import copy

import pytest
import torch
from conftest import VOCAB, random_item_batch
from torch.nn import functional as F

import qin_zoo
from qin_zoo.fuxi import BaseModel

BATCHES = [random_item_batch(VOCAB, 8, batch=64, seed=s) for s in range(20)]


def saturating(feature_map, tmp_path, **params):
    """QIN whose weights begin so that some rows' probabilities are exactly 0 or 1."""
    torch.manual_seed(0)
    options = {"learning_rate": 1e-3, "verbose": 0, "model_root": str(tmp_path), "metrics": ["AUC"], **params}
    model = qin_zoo.create_model("QIN", feature_map, model_id="t", embedding_dim=4, **options)
    with torch.no_grad():
        next(m for m in reversed(list(model.modules())) if isinstance(m, torch.nn.Linear)).weight.mul_(300)
    model._max_gradient_norm, model._steps_per_epoch, model._batch_index = 10.0, 20, 0
    return model.train()


def fuxictr_s(model):
    """The same model, trained by FuxiCTR's own step with FuxiCTR's own loss."""
    model = copy.deepcopy(model)
    BaseModel.compile(model, "adam", "binary_crossentropy", 1e-3)
    assert model.loss_fn is F.binary_cross_entropy
    model.add_loss = BaseModel.add_loss.__get__(model)
    model.train_step = BaseModel.train_step.__get__(model)
    return model


def trajectories(ours, theirs):
    pairs = [(ours.train_step(batch).item(), theirs.train_step(batch).item()) for batch in BATCHES]
    return torch.tensor(pairs, dtype=torch.float64).T


def test_the_published_loss_follows_fuxictr_s_from_weights_that_saturate(feature_map, tmp_path):
    ours = saturating(feature_map, tmp_path, loss="published")
    with torch.no_grad():
        y_pred = ours.forward(BATCHES[0])["y_pred"]
    assert ((y_pred == 0) | (y_pred == 1)).sum() > 3
    mine, theirs = trajectories(ours, fuxictr_s(ours))
    assert (mine - theirs).abs().max() < 1e-5 * theirs.abs().max()
    assert theirs[0] > 5


def test_the_default_has_a_gradient_where_the_published_loss_has_none(feature_map, tmp_path):
    ours = saturating(feature_map, tmp_path)
    mine, theirs = trajectories(ours, fuxictr_s(ours))
    assert (mine - theirs).abs().max() > 0.1
    for loss, moves in (("binary_crossentropy", True), ("published", False)):
        model = saturating(feature_map, tmp_path, loss=loss)
        logits = torch.tensor([[40.0]], requires_grad=True)
        value = model.add_loss({"logits": logits, "y_pred": logits.sigmoid()}, torch.zeros(1, 1))
        value.backward()
        assert value.item() == pytest.approx(40.0 if moves else 100.0)
        assert (logits.grad.item() == 1) is moves


@pytest.mark.parametrize("loss", ["published", "binary_crossentropy"])
def test_a_nan_is_one_in_the_loss(loss, feature_map, tmp_path):
    model = saturating(feature_map, tmp_path, loss=loss)
    logits = torch.tensor([[0.0], [torch.nan]])
    assert model.add_loss({"logits": logits, "y_pred": logits.sigmoid()}, torch.ones(2, 1)).isnan()
