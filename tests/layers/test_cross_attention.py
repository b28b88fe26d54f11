"""The cross-attention encoder against PyTorch's own multi-head attention, position by position."""

import pytest
import torch
from torch import nn

from qin_zoo.layers import CrossAttentionEncoder, ItemRows, SharedHistory, dense, fold

B, L, D, U = 5, 6, 8, 9


def rms(x, norm):
    """w ⊙ x / √(mean(x²) + ε)"""
    eps = torch.finfo(torch.float32).eps if norm.eps is None else norm.eps
    return norm.weight * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def attend(layer, query, items, real):
    """One row: queries (Q, D) to items (L, D), those that are real."""
    attention = layer.cross_attn
    if not real.any():
        return attention.multihead_attn.out_proj.bias.expand(len(query), -1)
    maps = ((attention.query_proj, query), (attention.key_proj, items), (attention.value_proj, items))
    return attention.multihead_attn(*(linear(x) for linear, x in maps), key_padding_mask=~real)[0]


def step(layer, query, items, real):
    if layer.shared:
        a = rms(query + attend(layer, query, rms(items, layer.attn_norm), real), layer.attn_norm)
        return a + layer.ffn(a)
    attended = rms(attend(layer, query, items, real), layer.cross_attn.norm)
    a = rms(query + attended, layer.attn_norm)
    return rms(a + layer.ffn(a), layer.ffn_norm)


def plain(encoder, target, history, mask):
    rows = []
    for query, items, real in zip(target.unsqueeze(1), history, mask):
        if encoder.self_attention is not None:
            items = step(encoder.self_attention, items, items, real)
        for layer in encoder.layers:
            query = step(layer, query, items, real)
        rows.append(query.squeeze(0))
    return torch.stack(rows)


@pytest.fixture(params=["shared", "separate"])
def rms_norm(request):
    return request.param


def make(rms_norm, self_attention):
    torch.manual_seed(0)
    encoder = CrossAttentionEncoder(D, 2, 4, rms_norm=rms_norm, self_attention=self_attention).double()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.5)
    return encoder


def problem():
    torch.manual_seed(1)
    mask = torch.rand(B, L) < 0.5
    mask[0], mask[1], mask[2, :2] = False, True, True
    return torch.randn(B, D).double(), torch.randn(U, D).double(), torch.randint(0, U, (B, L)), mask


@pytest.mark.parametrize("self_attention", [False, True])
@pytest.mark.parametrize("form", ["rows", "dense"])
def test_equals_the_reference(rms_norm, form, self_attention):
    """With a row that has no history: no NaN, neither in values nor in gradients."""
    encoder, (target, table, index, mask) = make(rms_norm, self_attention), problem()
    target.requires_grad_(), table.requires_grad_()
    history = ItemRows(table, index) if form == "rows" else table[index]
    got, want = encoder(target, history, mask), plain(encoder, target, table[index], mask)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)
    over = [target, table, *encoder.parameters()]
    found, expected = (
        torch.autograd.grad(out.sin().sum(), over, allow_unused=True, materialize_grads=True) for out in (got, want)
    )
    for g, w in zip(found, expected):
        torch.testing.assert_close(g, w, atol=1e-6, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("self_attention", [False, True])
def test_a_history_that_all_rows_share(rms_norm, self_attention):
    encoder, (target, table, _, mask) = make(rms_norm, self_attention).eval(), problem()
    for real in mask[:3]:
        shared, real = SharedHistory(table[:L], B), real.expand(B, -1)
        want = plain(encoder, target, dense(shared), real)
        torch.testing.assert_close(encoder(target, shared, real), want, atol=1e-6, rtol=1e-6)
        folded = fold(make(rms_norm, self_attention).eval())
        torch.testing.assert_close(folded(target, shared, real), want, atol=1e-6, rtol=1e-6)


def test_each_distinct_item_is_normalised_once():
    encoder, (target, table, index, mask), seen = make("shared", False), problem(), []
    encoder.layers[0].attn_norm.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    encoder(target, ItemRows(table, index), mask)
    assert seen == [U, B]


@pytest.mark.parametrize(
    ("options", "message"), [({"num_heads": 3}, "num_heads must divide"), ({"rms_norm": "none"}, "shared, separate")]
)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CrossAttentionEncoder(D, **options)
