"""Dropout from shared random words: right rates, independent places, and the plain formula under the same mask."""

import pytest
import torch
from torch import nn

from qin_zoo.layers import dropout as module
from qin_zoo.layers.dropout import drop_scale, dropout, keep_mask, run_layers, sum_of_dropped_rows


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_rate(p):
    torch.manual_seed(0)
    mask = 1 - keep_mask((4000, 100), p, torch.device("cpu")).float()
    deviation = (p * (1 - p)) ** 0.5
    assert abs(mask.mean() - p) < 5 * deviation / 400_000**0.5
    for place in range(4):  # four numbers come from one word
        assert abs(mask.flatten()[place::4].mean() - p) < 5 * deviation / 100_000**0.5


def test_places_are_independent():
    torch.manual_seed(0)
    quads = keep_mask((100_000, 4), 0.3, torch.device("cpu")).float()
    correlation = torch.corrcoef(torch.cat([quads[:-1], quads[1:]], dim=1).t())
    assert (correlation - torch.eye(8)).abs().max() < 0.02


@pytest.mark.parametrize("shape", [(3,), (5, 7), (1, 1)])
def test_odd_sizes(shape):
    assert keep_mask(shape, 0.5, torch.device("cpu")).shape == shape


def test_dropout_keeps_the_mean_and_the_identity():
    x = torch.ones(200_000)
    torch.manual_seed(0)
    y = dropout(x, 0.1, training=True)
    assert y.unique().tolist() == [0.0, pytest.approx(1 / 0.9, rel=1e-4)]
    assert y.mean() == pytest.approx(1.0, abs=0.005)
    assert dropout(x, 0.1, training=False) is x
    assert dropout(x, 0.0, training=True) is x


@pytest.mark.parametrize("elements", [1 << 17, 8])
@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_a_relu_and_what_is_dropped_after_it(monkeypatch, elements, kind):
    monkeypatch.setattr(module, "_ELEMENTS", elements)
    kinds = [nn.ReLU(), nn.Dropout(0.4), nn.Tanh(), nn.Dropout(0.1), nn.ReLU()]
    layers = nn.Sequential(*kinds)
    x = torch.randn(6, 5, dtype=kind).t().requires_grad_()
    torch.manual_seed(1)
    first, second = (keep_mask(x.shape, p, x.device) * drop_scale(p) for p in (0.4, 0.1))
    want = ((x.relu() * first).to(kind).tanh() * second).to(kind).relu()
    torch.manual_seed(1)
    got = run_layers(layers, x)
    torch.testing.assert_close(got, want)
    weights = torch.randn(want.shape, dtype=kind)
    torch.testing.assert_close(*(torch.autograd.grad((y * weights).sum(), x)[0] for y in (got, want)))
    layers.eval()
    torch.testing.assert_close(run_layers(layers, x), layers(x))


@pytest.mark.parametrize("chunk", [1024, 3])
@pytest.mark.parametrize("p", [0.0, 0.4])
def test_sum_of_dropped_rows(monkeypatch, chunk, p):
    monkeypatch.setattr(module.row_chunks, "__defaults__", (chunk,))
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*s, requires_grad=True) for s in ((8, 5), (3 * 6, 5), (3 * 6,)))
    torch.manual_seed(1)
    masks = [keep_mask((min(chunk, 8 - first), 18), p, x.device) for first in range(0, 8, chunk)]
    want = (x @ weight.T + bias) * torch.cat(masks) * drop_scale(p)
    want = want[:, :6] + want[:, 6:12] + want[:, 12:]
    torch.manual_seed(1)
    got = sum_of_dropped_rows(x, weight, bias, 3, p)
    torch.testing.assert_close(got, want)
    weights = torch.randn(want.shape)
    for g, w in zip(
        torch.autograd.grad((got * weights).sum(), (x, weight, bias)),
        torch.autograd.grad((want * weights).sum(), (x, weight, bias)),
        strict=True,
    ):
        torch.testing.assert_close(g, w)


def test_products_in_bfloat16_sums_in_float32():
    x, weight, bias = (torch.randn(*s, requires_grad=True) for s in ((64, 32), (2 * 32, 32), (2 * 32,)))
    with torch.autocast("cpu", torch.bfloat16):
        got = sum_of_dropped_rows(x, weight, bias, 2, 0.0)
    want = sum_of_dropped_rows(x, weight, bias, 2, 0.0)
    assert got.dtype == torch.float32
    assert 0 < (got - want).abs().max() < 0.3
    got.sum().backward()
    assert weight.grad.dtype == x.grad.dtype == torch.float32
