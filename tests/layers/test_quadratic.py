"""A layer's product, norm, activation, dropout and residual in one step, against the same in five."""

import copy

import pytest
import torch
from torch import nn

from qin_zoo.layers.dropout import drop_scale, keep_mask
from qin_zoo.layers.quadratic import quadratic

B, N = 32, 6


def plain(x, s, norm, activation, p):
    y = x * s
    if norm is not None:
        y = norm(y)
    y = activation(y)
    if p and activation.training:
        y = y * keep_mask(y.shape, p, y.device) * drop_scale(p)
    return y + x


@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("with_norm", [True, False])
def test_equals_its_steps(p, training, with_norm):
    torch.manual_seed(0)
    x, s = torch.randn(B, N, requires_grad=True), torch.randn(B, N, requires_grad=True)
    norm = nn.BatchNorm1d(N) if with_norm else None
    if norm is not None:
        for weight in (norm.weight, norm.bias, norm.running_mean):
            nn.init.normal_(weight)
    net = nn.ModuleList([nn.PReLU(), nn.Dropout(p), *([norm] if with_norm else [])]).train(training)
    twin = copy.deepcopy(net)
    weights = torch.randn(B, N)
    torch.manual_seed(1)
    want = plain(x, s, twin[2] if with_norm else None, twin[0], p)
    want_gradients = torch.autograd.grad((want * weights).sum(), (x, s, *twin.parameters()))
    torch.manual_seed(1)
    got = quadratic(x, s, norm, net[0], net[1])
    got_gradients = torch.autograd.grad((got * weights).sum(), (x, s, *net.parameters()))
    torch.testing.assert_close(got, want)
    for g, w in zip(got_gradients, want_gradients, strict=True):
        torch.testing.assert_close(g, w, atol=1e-5, rtol=1e-4)
    for name, state in twin.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], state)
