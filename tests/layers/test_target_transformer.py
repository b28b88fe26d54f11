"""The target-aware Transformer against its plain reference, in both mask conventions and both forms of history."""


import pytest
import reference_transformer as reference
import torch

from qin_zoo.layers import ItemRows, TargetTransformer
from qin_zoo.layers.target_transformer import _Seats

B, L, D = 5, 4, 6
CONVENTIONS = ["published", "history"]


def make(convention, **params):
    torch.manual_seed(0)
    layer = TargetTransformer(
        D, **{"num_heads": 2, "dim_feedforward": 5, "first_k_cols": 2, "mask_convention": convention, **params}
    )
    for parameter in layer.parameters():  # norms and biases too
        torch.nn.init.normal_(parameter, std=0.4)
    return layer


def inputs(length=L):
    g = torch.Generator().manual_seed(2)
    lengths = torch.tensor([0, length, 1, 2, 3]).clamp(max=length)
    mask = torch.arange(length).expand(B, -1) >= (length - lengths).unsqueeze(1)
    index = torch.randint(1, 9, (B, length), generator=g) * mask
    table = torch.randn(9, D, generator=g)
    table[0] = 0
    return torch.randn(B, D, generator=g), table.requires_grad_(), index, mask


@pytest.mark.parametrize("seats", ["of", "everywhere"])  # on a CPU, on a GPU
@pytest.mark.parametrize("form", ["dense", "rows"])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_equals_the_reference(convention, form, seats, monkeypatch):
    monkeypatch.setattr(_Seats, "of", getattr(_Seats, seats))
    layer = make(convention).double()
    target, table, index, mask = inputs()
    target, table = (x.detach().double().requires_grad_() for x in (target, table))
    plain = reference.target_transformer(layer, target, table[index], mask, convention)
    fast = layer(target, ItemRows(table, index) if form == "rows" else table[index], mask)
    torch.testing.assert_close(fast, plain, atol=1e-12, rtol=1e-10)
    weights = torch.randn(plain.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    over = [target, table, *layer.parameters()]
    want, got = (torch.autograd.grad((out * weights).sum(), over) for out in (plain, fast))
    for g, w in zip(got, want):
        torch.testing.assert_close(g, w, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize(("first_k_cols", "concat_max_pool"), [(2, False), (6, True), (0, True)])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_what_is_kept(convention, first_k_cols, concat_max_pool):
    layer = make(convention, first_k_cols=first_k_cols, concat_max_pool=concat_max_pool)
    target, table, index, mask = inputs()
    out = layer(target, ItemRows(table, index), mask)
    assert out.shape == (B, layer.output_dim) == (B, 2 * D * (first_k_cols + concat_max_pool))
    plain = reference.target_transformer(layer, target, table[index], mask, convention)
    torch.testing.assert_close(out, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_what_is_dropped_is_spread_as_by_torchs_encoder(dropout):
    layer = make("history", transformer_dropout=dropout, transformer_layers=1)
    encoder = layer.transformer_encoder.layers[0]
    target, table, index, _ = inputs()
    pairs = torch.cat([table[index], target.unsqueeze(1).expand(-1, L, -1)], dim=-1)
    seats = _Seats.of(~torch.ones(B, L, dtype=torch.bool))
    with torch.no_grad():
        ours = torch.stack([layer._encode(target, table[index], seats) for _ in range(4000)])
        theirs = torch.stack([encoder(pairs) for _ in range(4000)]).flatten(1, 2)
    for moment in (torch.mean, torch.std):
        torch.testing.assert_close(moment(ours, 0), moment(theirs, 0), atol=0.12 if dropout else 1e-5, rtol=0)


def test_history_convention_depends_on_the_items_alone():
    layer = make("history").eval()
    target, table, index, mask = inputs()
    garbage = torch.where(mask, index, 7)
    want = layer(target, ItemRows(table, index), mask)
    torch.testing.assert_close(layer(target, ItemRows(table, garbage), mask), want)
    changed = layer(target, ItemRows(table, torch.where(mask, 8, 0)), mask)
    assert (changed - want).abs().amax(1)[1:].min() > 1e-3


def test_published_convention_sees_the_last_item_of_a_full_history_only():
    layer = make("published").eval()
    target, table, index, mask = inputs()
    want = layer(target, ItemRows(table, index), mask)
    other = torch.where(mask, 8, 0)
    other[1, -1] = index[1, -1]
    torch.testing.assert_close(layer(target, ItemRows(table, other), mask), want)
    other[1, -1] = 1 + index[1, -1] % 8
    assert (layer(target, ItemRows(table, other), mask)[1] - want[1]).abs().max() > 1e-3


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_history_of_no_length_is_one_of_nothing(convention):
    layer = make(convention)
    target, *_ = inputs()
    out = layer(target, torch.zeros(B, 0, D), torch.zeros(B, 0, dtype=torch.bool))
    nothing = layer(target, torch.zeros(B, 1, D), torch.zeros(B, 1, dtype=torch.bool))
    assert out.isfinite().all()
    torch.testing.assert_close(out, nothing)
    (gradient,) = torch.autograd.grad(out.sum(), [layer.out_linear.bias])
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"num_heads": 5}, "num_heads must divide .*12 numbers.*5"),
        ({"first_k_cols": 0, "concat_max_pool": False}, "first_k_cols"),
        ({"mask_convention": "other"}, "published, history"),
    ],
)
def test_impossible_parameters_are_named(params, message):
    with pytest.raises(ValueError, match=message):
        TargetTransformer(D, **params)
