"""The mixture's cross network against FuxiCTR's layer: first weights, output, gradients, one row, the exported form."""

import pytest
import torch

from qin_zoo import fuxi
from qin_zoo.export.fold import side_by_side
from qin_zoo.layers import CrossNetMix

SIZES = (7, 3, 2, 4)  # n, layers, r, experts


def pair():
    """FuxiCTR's layer and ours, each built with the same seed, in float64; biases moved away from zero."""
    layers = []
    for make in (fuxi.CrossNetMix, CrossNetMix):
        torch.manual_seed(5)
        layers.append(make(*SIZES).double())
    for theirs, ours in zip(*(layer.bias for layer in layers)):
        torch.nn.init.normal_(theirs)
        ours.data.copy_(theirs)
    return layers


def test_the_weights_are_those_of_fuxictr_from_the_seed_on():
    theirs, ours = pair()
    state = ours.state_dict()
    assert list(state) == list(theirs.state_dict())
    assert all(torch.equal(values, state[name]) for name, values in theirs.state_dict().items())


@pytest.mark.parametrize("rows", [1, 6])
def test_outputs_and_gradients_are_those_of_fuxictr(rows):
    weights = torch.randn(rows, SIZES[0], dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    results = []
    for layer in pair():
        x = torch.randn(rows, SIZES[0], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        x.requires_grad_()
        out = layer(x).view(rows, -1)  # FuxiCTR's drops the dimension of one row
        results.append((out, *torch.autograd.grad((out * weights).sum(), [x, *layer.parameters()])))
    for theirs, ours in zip(*results):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_what_is_exported_of_fuxictrs_layer_computes_the_same():
    theirs, _ = pair()
    x = torch.randn(5, SIZES[0])
    torch.testing.assert_close(side_by_side(theirs.float().eval())(x), theirs(x))
