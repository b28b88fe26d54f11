"""Fusions, poolings and softmax attention against plain references, forward and gradients."""

import pytest
import reference_fusion as reference
import torch

from qin_zoo.layers import ASTA, FUSIONS, ItemRows, MeanPooling, TargetAttentionPooling, choose, make_fusion
from qin_zoo.layers.pooling import masked_softmax

DIMS, OUT = [3, 1, 4], 5
CASES = [
    ("concat", {}),
    ("sum", {}),
    ("gate", {}),
    ("gate", {"gate_activation": "softmax"}),
    ("attention", {}),
    ("attention", {"attention_dim": 2}),
    ("lmf", {"rank": 3}),
    ("mtfn", {"tensor_dim": 2}),
]


def assert_same(got, want, parameters):
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    weights = torch.randn(got.shape, generator=torch.Generator().manual_seed(3))
    gradients = [torch.autograd.grad((out * weights).sum(), parameters, retain_graph=True) for out in (got, want)]
    for g, w in zip(*gradients):
        torch.testing.assert_close(g, w, atol=1e-5, rtol=1e-4)


def make_parts(*shape, dims=DIMS):
    g = torch.Generator().manual_seed(1)
    return [torch.randn(*shape, d, generator=g, requires_grad=True) for d in dims]


class TestFusions:
    @pytest.mark.parametrize(("name", "options"), CASES)
    @pytest.mark.parametrize("training", [False, True])
    def test_formula(self, name, options, training):
        torch.manual_seed(0)
        layer = make_fusion(name, DIMS, OUT, **options).train(training)
        with torch.no_grad():  # biases that start at a constant must not hide a mistake
            for parameter in layer.parameters():
                parameter.normal_(std=0.5)
        parts = make_parts(6)
        want = torch.stack([reference.FUSIONS[name](layer, list(z)) for z in zip(*parts)])
        assert_same(layer(torch.cat(parts, dim=-1)), want, [*parts, *layer.parameters()])

    @pytest.mark.parametrize("name", FUSIONS)
    @pytest.mark.parametrize("dims", [[4], [3, 1], [2, 3, 1, 5]])
    def test_any_number_of_parts_and_of_leading_dimensions(self, name, dims):
        layer = make_fusion(name, dims, OUT)
        flat = make_parts(6, dims=dims)
        nested = [p.view(2, 3, -1) for p in flat]
        flat, nested = (torch.cat(parts, dim=-1) for parts in (flat, nested))
        torch.testing.assert_close(layer(nested), layer(flat).view(2, 3, OUT))
        for shape in ((0,), (2, 0)):
            assert layer(torch.zeros(*shape, sum(dims))).shape == (*shape, OUT)

    def test_every_fusion_has_a_reference(self):
        assert set(FUSIONS) == set(reference.FUSIONS) == {name for name, _ in CASES}

    def test_lmf_sums_over_ranks_outside_the_product(self):
        """1 + z_1 z_2 needs rank 2; a product of sums would give (1 + z_1)(1 + z_2)."""
        layer = make_fusion("lmf", [1, 1], 1, rank=2)
        with torch.no_grad():
            for factor in layer.factors:
                factor.weight.copy_(torch.tensor([[1.0], [0.0]]))
                factor.bias.copy_(torch.tensor([0.0, 1.0]))
        assert layer(torch.tensor([[2.0, 3.0]])).item() == 7

    def test_lmf_learns_from_small_embeddings(self):
        """Where all parts are nearly 0, every factor still has a gradient, through our and FuxiCTR's initialisation."""
        layer = make_fusion("lmf", DIMS, OUT, rank=4)
        for factor in layer.factors:
            torch.nn.init.zeros_(factor.bias)
        layer.init_weights()
        parts = [torch.full((2, d), 1e-4, requires_grad=True) for d in DIMS]
        out = layer(torch.cat(parts, dim=-1))
        torch.testing.assert_close(out, torch.ones(2, OUT), atol=0.01, rtol=0)
        assert all(g.abs().max() > 1e-2 for g in torch.autograd.grad(out.pow(2).sum(), parts))

    def test_unknown_names(self):
        with pytest.raises(ValueError, match=r"No fusion 'sun'\. Known: concat, sum, gate, attention, lmf, mtfn"):
            make_fusion("sun", DIMS, OUT)
        with pytest.raises(ValueError, match=r"No gate_activation 'relu'\. Known: sigmoid, softmax"):
            make_fusion("gate", DIMS, OUT, gate_activation="relu")
        assert choose({"a": 1}, "a", "letter") == 1

    def test_a_tensor_too_large_is_refused(self):
        with pytest.raises(ValueError, match=r"11 parts.*tensor_dim 4.*48,828,125.*'lmf'"):
            make_fusion("mtfn", [2] * 11, OUT)


B, L, D = 5, 4, 6


@pytest.fixture
def inputs():
    g = torch.Generator().manual_seed(2)
    mask = torch.rand(B, L, generator=g) < 0.6
    mask[0], mask[1] = False, True
    table = torch.randn(9, D, generator=g, requires_grad=True)
    return torch.randn(B, D, generator=g, requires_grad=True), table, torch.randint(0, 9, (B, L), generator=g), mask


POOLINGS = {
    "mean": (lambda: MeanPooling(), reference.mean_pooling),
    "attention": (lambda: TargetAttentionPooling(D), reference.target_attention_pooling),
    "softmax ASTA": (lambda: ASTA(D, normalize=True), reference.softmax_asta),
}


@pytest.mark.parametrize("form", ["dense", "rows"])
@pytest.mark.parametrize("name", POOLINGS)
class TestPoolings:
    def test_formula(self, name, form, inputs):
        torch.manual_seed(0)
        make, plain = POOLINGS[name]
        layer = make()
        target, table, index, mask = inputs
        history = ItemRows(table, index) if form == "rows" else table[index]
        parameters = [table, *layer.parameters(), *([] if name == "mean" else [target])]
        assert_same(layer(target, history, mask), plain(layer, target, table[index], mask), parameters)

    def test_rows_without_history(self, name, form, inputs):
        layer = POOLINGS[name][0]()
        target, table, index, mask = inputs
        nothing = torch.zeros(B, 0, D) if form == "dense" else ItemRows(table, index[:, :0])
        want = target if name == "softmax ASTA" else torch.zeros(B, D)
        torch.testing.assert_close(layer(target, nothing, mask[:, :0]), want)
        none_real = table[index] if form == "dense" else ItemRows(table, index)
        out = layer(target, none_real, torch.zeros_like(mask))
        torch.testing.assert_close(out, want)
        gradients = torch.autograd.grad(out.sum(), [table, *layer.parameters()], allow_unused=True)
        assert all(g is None or torch.equal(g, torch.zeros_like(g)) for g in gradients[:1])
        assert all(g is None or g.isfinite().all() for g in gradients)


def test_masked_softmax_with_large_scores_and_no_places():
    score = torch.tensor([[1e30, 0.0, -1e30], [5.0, 5.0, 5.0], [-1e30, -1e30, 0.0]])
    mask = torch.tensor([[True, True, True], [False, False, False], [True, True, False]])
    want = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0.5, 0.5, 0]])
    assert torch.equal(masked_softmax(score, mask), want)
    assert torch.equal(masked_softmax(score, mask.float()), want)
