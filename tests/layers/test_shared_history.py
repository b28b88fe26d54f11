"""A history that all rows share, and layers folded for scoring: the same as written out, and as before folding."""

import pytest
import torch
from torch import nn

from qin_zoo.fuxi import MLP_Block
from qin_zoo.layers import (
    ASTA,
    QNN,
    DINAttention,
    ItemRows,
    MeanPooling,
    MultiHeadTargetAttention,
    SharedHistory,
    TargetAttentionPooling,
    TargetTransformer,
    dense,
    fold,
    map_items,
)
from qin_zoo.layers.history import item_scores, shorten, weighted_sum

B, L, D = 5, 7, 6
MASKS = {
    "none": [0] * L, "one": [0] * (L - 1) + [1], "some": [0, 0, 0, 1, 1, 1, 1], "holes": [0, 1, 0, 1, 0, 0, 1],
    "last is padding": [0, 0, 1, 1, 1, 1, 0], "full": [1] * L,
}  # fmt: skip
ATTENTIONS = {
    "asta": lambda: ASTA(D),
    "softmax": lambda: ASTA(D, normalize=True),
    "din": lambda: DINAttention(MLP_Block(4 * D, [8], "Dice", output_dim=1)),
    "din softmax": lambda: DINAttention(MLP_Block(4 * D, [8, 4], "ReLU", 1, batch_norm=True), use_softmax=True),
    "multi-head": lambda: MultiHeadTargetAttention(D, 8, num_heads=2),
    "mean": MeanPooling,
    "pooling": lambda: TargetAttentionPooling(D),
    "transformer": lambda: TargetTransformer(D, num_heads=3, first_k_cols=4, mask_convention="history"),
    "long transformer": lambda: TargetTransformer(D, first_k_cols=L + 3, mask_convention="history"),
    "published transformer": lambda: TargetTransformer(D, first_k_cols=4),
    "pooled transformer": lambda: TargetTransformer(D, first_k_cols=0),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def disturbed(module: nn.Module) -> nn.Module:
    """Evaluation with batch norms that do something."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            if norm.affine:
                nn.init.uniform_(norm.weight, -1, 2)
                nn.init.normal_(norm.bias)
    return module.eval()


@torch.no_grad()
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", ATTENTIONS)
def test_attentions(name, mask):
    layer = disturbed(ATTENTIONS[name]())
    items, target = torch.randn(L, D), torch.randn(B, D)
    mask = torch.tensor(MASKS[mask]).bool()
    # Padding is one item; zeros for DIN, whose softmax over no items depends on the rows beside it else.
    items[~mask] = torch.zeros(D) if name == "din softmax" else torch.randn(D)
    mask = mask.expand(B, -1)
    want = layer(target, items.expand(B, -1, -1), mask)
    shared = SharedHistory(items, B)
    torch.testing.assert_close(layer(target, shared, mask), want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fold(layer)(target, shared, mask), want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["asta", "softmax", "din", "din softmax"])
def test_folded_attentions_take_any_history(name):
    layer = disturbed(ATTENTIONS[name]())
    table, index, target = torch.randn(9, D), torch.randint(0, 9, (B, L)), torch.randn(B, D)
    mask = torch.rand(B, L) < 0.5
    want = layer(target, table[index], mask)
    folded = fold(layer)
    for history in (table[index], ItemRows(table, index)):
        torch.testing.assert_close(folded(target, history, mask), want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("batch_norm", [True, False])
def test_quadratic_network(batch_norm):
    layer = disturbed(QNN(8, num_layers=3, num_row=4, net_dropout=0.1, batch_norm=batch_norm))
    for slope in layer.activation:
        nn.init.uniform_(slope.weight)
    x = torch.randn(30, 8)
    want = layer(x)
    folded = fold(layer)
    torch.testing.assert_close(folded(x), want, atol=1e-5, rtol=1e-5)
    assert sum(values.numel() for values in folded.buffers()) == 3 * (8 * 8 + 8 + 8 * batch_norm)


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
def test_batch_norm_goes_into_the_linear_layer_before_it(bias):
    activations = [nn.PReLU(), nn.PReLU(4)]
    block = disturbed(MLP_Block(6, [5, 4], activations, 1, dropout_rates=0.2, batch_norm=True, use_bias=bias))
    x = torch.randn(20, 6)
    want = block(x)
    folded = fold(block)
    torch.testing.assert_close(folded(x), want)
    kinds = [type(step) for step in folded.mlp]
    assert kinds == [nn.Linear, nn.LeakyReLU, nn.Linear, nn.PReLU, nn.Linear]


@torch.no_grad()
def test_a_batch_norm_on_its_own_stays():
    steps = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Dropout(0.5))
    x = torch.randn(9, 4)
    want = disturbed(steps)(x)
    torch.testing.assert_close(fold(steps)(x), want)


def test_what_somebody_folds():
    class Theirs(nn.Module):
        pass

    model = nn.ModuleDict({"a": Theirs()})
    assert isinstance(fold(model, {Theirs: lambda layer: nn.Identity()})["a"], nn.Identity)


@pytest.mark.parametrize("queries", [None, 3])
def test_products(queries):
    items = torch.randn(L, D)
    shared = SharedHistory(items, B)
    query, weight = (torch.randn(*([B, n] if queries is None else [B, queries, n])) for n in (D, L))
    written_out = dense(shared)
    assert written_out.shape == (B, L, D)
    torch.testing.assert_close(item_scores(query, shared), item_scores(query, written_out))
    torch.testing.assert_close(weighted_sum(weight, shared), weighted_sum(weight, written_out))
    mapped = map_items(torch.exp, shared)
    assert torch.equal(mapped.items, items.exp())
    assert mapped.rows == B
    assert shorten(shared, torch.zeros(B, L))[0] is shared
