"""Regularisation: FuxiCTR's own value and gradients, for every form of its strings."""

import pytest
import torch
from conftest import VOCAB, item_table_feature_map
from torch import nn

from qin_zoo.fuxi import BaseModel
from qin_zoo.models.penalty import Penalty
from qin_zoo.registry import create_model


@pytest.mark.parametrize("embedding", [None, 0.1, "l1(0.2)", "l2(0.3)", "l1_l2(0.1,0.2)"])
@pytest.mark.parametrize("net", [None, 0.05, "l1_l2(0.1,0.02)"])
def test_equals_fuxictrs(embedding, net):
    model = create_model(
        "QIN", item_table_feature_map(VOCAB, 8), metrics=["AUC"], embedding_dim=8, model_root=".", verbose=0,
        embedding_regularizer=embedding, net_regularizer=net,
    )  # fmt: skip
    for weight in model.parameters():
        nn.init.normal_(weight)
    want, got = BaseModel.regularization_loss(model), model.regularization_loss()
    if embedding is None and net is None:
        assert got == want == 0
        return
    torch.testing.assert_close(got, want)
    gradients = [torch.autograd.grad(loss, list(model.parameters()), allow_unused=True) for loss in (got, want)]
    for g, w in zip(*gradients, strict=True):
        assert (g is None) == (w is None)
        if g is not None:
            torch.testing.assert_close(g, w)


def test_frozen_weights_are_left_out():
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    torch.testing.assert_close(Penalty(layer, None, 0.5)(), 0.25 * (layer.weight**2).sum())
