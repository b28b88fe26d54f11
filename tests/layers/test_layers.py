"""Each layer against the plain reference of its formula, forward and gradients, in both forms of history."""

import pytest
import reference
import torch
from torch import nn

from qin_zoo.fuxi import MLP_Block
from qin_zoo.layers import ASTA, QNN, DINAttention, ItemRows, dense, map_items

B, L, D = 5, 4, 6


@pytest.fixture
def table():
    return torch.randn(9, D, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def inputs(table):
    g = torch.Generator().manual_seed(2)
    index = torch.randint(0, 9, (B, L), generator=g)
    mask = torch.rand(B, L, generator=g) < 0.6
    mask[0], mask[1] = False, True
    return torch.randn(B, D, generator=g), index, mask


def gradients(function, parameters):
    weights = torch.randn(B, 1, generator=torch.Generator().manual_seed(3))
    out = function()
    return out, torch.autograd.grad((out * weights).sum(), parameters)


def assert_same(module, plain, fast, table):
    parameters = [table, *module.parameters()]
    want, want_gradients = gradients(plain, parameters)
    got, got_gradients = gradients(fast, parameters)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    for g, w in zip(got_gradients, want_gradients):
        torch.testing.assert_close(g, w, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("form", ["dense", "rows"])
def test_asta(inputs, table, form):
    torch.manual_seed(0)
    layer = ASTA(D)
    target, index, mask = inputs
    table.requires_grad_()
    history = ItemRows(table, index) if form == "rows" else table[index]
    assert layer.W_q.weight.shape == (2 * D, D)
    assert_same(
        layer,
        lambda: reference.asta(layer, target, table[index], mask),
        lambda: layer(target, history, mask),
        table,
    )


@pytest.mark.parametrize("form", ["dense", "rows"])
@pytest.mark.parametrize("use_softmax", [False, True])
def test_din_attention(inputs, table, form, use_softmax):
    torch.manual_seed(0)
    layer = DINAttention(nn.Sequential(nn.Linear(4 * D, 3), nn.Sigmoid(), nn.Linear(3, 1)), use_softmax)
    target, index, mask = inputs
    if use_softmax:
        mask = mask.clone()
        mask[0, 0] = True  # with nothing to attend to, a softmax is defined by its rounding only
    table.requires_grad_()
    history = ItemRows(table, index) if form == "rows" else table[index]
    assert_same(
        layer,
        lambda: reference.din_attention(layer, target, table[index], mask),
        lambda: layer(target, history, mask),
        table,
    )


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_qnn(batch_norm, training):
    torch.manual_seed(0)
    net = QNN(D, num_layers=2, num_row=3, batch_norm=batch_norm).train(training)
    x = torch.randn(B, D, requires_grad=True)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert_same(net, lambda: reference.qnn(net, x), lambda: net(x), x)
    if not training:
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_qnn_dropout_is_drawn_for_every_row():
    """With dropout every W_r x + b_r is dropped on its own: sums of num_row kept or dropped terms appear."""
    torch.manual_seed(0)
    net = QNN(1, num_layers=1, num_row=2, net_dropout=0.5)
    linear = net.layer[0]["linear"][0]
    nn.init.zeros_(linear.weight)
    with torch.no_grad():
        linear.bias.copy_(torch.tensor([1.0, 10.0]))
    sums = {round(v, 2) for v in net._map(linear)(torch.ones(500, 1)).flatten().tolist()}
    assert sums == {0.0, 2.0, 20.0, 22.0}


def test_dropout_only_in_training():
    torch.manual_seed(0)
    net = QNN(D, num_layers=2, num_row=2, net_dropout=0.5)
    x = torch.randn(B, D)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))
    torch.testing.assert_close(net(x), reference.qnn(net, x), atol=1e-5, rtol=1e-5)


def test_no_history_at_all(inputs):
    target, _, _ = inputs
    history, mask = torch.zeros(B, 0, D), torch.zeros(B, 0, dtype=torch.bool)
    torch.testing.assert_close(ASTA(D)(target, history, mask), target)
    mlp = nn.Sequential(nn.Linear(4 * D, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    assert torch.equal(DINAttention(mlp)(target, history, mask), torch.zeros(B, D))


def test_dense_of_both_forms(table, inputs):
    _, index, _ = inputs
    assert torch.equal(dense(ItemRows(table, index)), table[index])
    assert dense(table) is table


def test_map_items_works_once_per_distinct_item(table, inputs):
    _, index, _ = inputs
    seen = []
    double = lambda x: seen.append(x.shape[:-1].numel()) or 2 * x  # noqa: E731
    torch.testing.assert_close(dense(map_items(double, ItemRows(table, index))), 2 * table[index])
    torch.testing.assert_close(map_items(double, table[index]), 2 * table[index])
    assert seen == [9, B * L]


def test_what_dins_attention_drops_is_spread_as_by_its_mlp():
    torch.manual_seed(0)
    layer = DINAttention(MLP_Block(4 * D, [16], "ReLU", 1, dropout_rates=0.3))
    target, history, mask = torch.randn(B, D), torch.randn(B, L, D), torch.ones(B, L, dtype=torch.bool)
    t = target.unsqueeze(1).expand_as(history)
    places = torch.cat([t, history, t - history, t * history], dim=-1).flatten(0, 1)
    with torch.no_grad():
        ours = torch.stack([layer.weights(target, history, mask) for _ in range(4000)])
        theirs = torch.stack([layer.attention_layer(places).view(B, L) for _ in range(4000)])
    assert theirs.std(0).min() > 0.05
    torch.testing.assert_close(ours.mean(0), theirs.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(ours.std(0), theirs.std(0), atol=0.015, rtol=0)
