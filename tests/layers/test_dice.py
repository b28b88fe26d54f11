"""DIN's attention where its MLP takes statistics over a batch, against the layer in FuxiCTR's wheel, of all places."""

import pytest
import torch
from fuxictr.pytorch.layers import DIN_Attention
from torch import nn

from qin_zoo.fuxi import MLP_Block
from qin_zoo.layers import DINAttention, ItemRows

B, L, D, U = 7, 6, 4, 9
LENGTHS = {"some": [6, 0, 1, 4, 5, 6, 2], "none": [6] * B, "all but one": [0, 0, 0, 3, 0, 0, 0]}


def layers(units, activations="Dice", **options):
    """FuxiCTR's and ours, with the same weights, in float64."""
    torch.manual_seed(0)
    theirs = DIN_Attention(D, units, activations, **options).double()
    for name, weight in theirs.named_parameters():
        if name.endswith(("alpha", "bias")):
            nn.init.normal_(weight)
    options = {key: options[key] for key in {"dropout_rate", "batch_norm"} & set(options)}
    options = {"dropout_rates": options.get("dropout_rate", 0), "batch_norm": options.get("batch_norm", False)}
    ours = DINAttention(MLP_Block(4 * D, units, activations, 1, **options)).double()
    # In theirs each activation is given as a module, ours makes them by name: the weights have the same names.
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def inputs(lengths):
    torch.manual_seed(1)
    target, table = torch.randn(B, D).double(), torch.randn(U, D).double()
    index = torch.randint(1, U, (B, L))
    mask = torch.arange(L) >= L - torch.tensor(lengths).unsqueeze(1)
    return target, table, index * mask, mask


def trained(layer, target, table, index, mask, as_rows, steps=3):
    """Results, gradients and running statistics of a few steps."""
    found = []
    for step in range(steps):
        leaves = [values.clone().requires_grad_() for values in (target + step, table)]
        history = ItemRows(leaves[1], index) if as_rows else leaves[1][index]
        out = layer(leaves[0], history, mask)
        layer.zero_grad()
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        found += [out.detach(), *(leaf.grad for leaf in leaves), *(p.grad.clone() for p in layer.parameters())]
    return found + [buffer.clone() for buffer in layer.buffers()]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("units", [[8], [8, 5], [1]])
@pytest.mark.parametrize("as_rows", [True, False])
def test_as_fuxictrs_layer_trains(lengths, units, as_rows):
    theirs, ours = layers(units)
    given = inputs(LENGTHS[lengths])
    for expected, found in zip(trained(theirs, *given, False), trained(ours, *given, as_rows), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    theirs.eval(), ours.eval()
    target, table, index, mask = given
    torch.testing.assert_close(ours(target, ItemRows(table, index), mask), theirs(target, table[index], mask))


@pytest.mark.parametrize(
    "options", [{"batch_norm": True}, {"activations": "ReLU", "batch_norm": True}, {"activations": "ReLU"}]
)
def test_other_statistics_see_all_of_the_padding(options):
    theirs, ours = layers([8], **options)
    given = inputs(LENGTHS["some"])
    for expected, found in zip(trained(theirs, *given, False), trained(ours, *given, True), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_padding_of_several_kinds_is_not_one():
    theirs, ours = layers([8])
    target, table, index, mask = inputs(LENGTHS["some"])
    index[1, 0] = 3  # an item that the mask leaves out
    given = (target, table, index, mask)
    for expected, found in zip(trained(theirs, *given, False), trained(ours, *given, True), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_what_is_dropped_is_drawn_for_each_place():
    """One padded place of a row, counted, would have one draw for all of them in the next layer's statistics."""
    _, ours = layers([8, 5], dropout_rate=0.5)
    _, _, index, mask = inputs(LENGTHS["all but one"])
    places, counts = ours._places(mask, index)
    assert len(places) == B * L
    assert counts is None


def test_padding_is_computed_once_a_row():
    _, ours = layers([8])
    seen = []
    ours.attention_layer.mlp[-1].register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    target, table, index, mask = inputs(LENGTHS["some"])
    ours(target, ItemRows(table, index), mask)
    assert seen == [sum(LENGTHS["some"]) + 5]


def test_in_half_precision_statistics_are_of_float32():
    """Against float64: as near as FuxiCTR's own layer under autocast."""
    theirs, ours = layers([8])
    given = inputs(LENGTHS["some"])
    exact = trained(theirs, *given, False)
    target, table, index, mask = given
    halves = []
    for layer, as_rows in ((layers([8])[0], False), (ours, True)):
        with torch.autocast("cpu", torch.bfloat16):
            halves.append(trained(layer.float(), target.float(), table.float(), index, mask, as_rows))
    for right, plain, found in zip(exact, *halves, strict=True):
        far = (plain - right).abs().max()
        assert (found - right).abs().max() <= 2 * far + 0.02 * right.abs().max()
