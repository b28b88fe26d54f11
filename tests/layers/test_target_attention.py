"""Multi-head target attention, bilinear interaction, unified embedding: plain references and FuxiCTR's layers."""

import pytest
import reference_target_attention as reference
import torch

from qin_zoo.layers import (
    BilinearInteraction,
    ItemRows,
    MultiHeadTargetAttention,
    UnifiedEmbedding,
    dense,
    map_items,
)

B, L, D = 5, 4, 6


@pytest.fixture
def table():
    return torch.randn(9, D, generator=torch.Generator().manual_seed(1), requires_grad=True)


@pytest.fixture
def problem():
    """Target, history index, mask; the first row has no history, the second a full one."""
    g = torch.Generator().manual_seed(2)
    mask = torch.rand(B, L, generator=g) < 0.6
    mask[0], mask[1] = False, True
    return torch.randn(B, D, generator=g), torch.randint(0, 9, (B, L), generator=g), mask


def assert_same(want, got, parameters):
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    weights = torch.randn(want.shape, generator=torch.Generator().manual_seed(3))
    wanted = torch.autograd.grad((want * weights).sum(), parameters)
    for g, w in zip(torch.autograd.grad((got * weights).sum(), parameters), wanted):
        torch.testing.assert_close(g, w, atol=1e-5, rtol=1e-4)


def fuxictr_attention(layer, dropout_rate=0.0, use_scale=True):
    from fuxictr.pytorch.layers import MultiHeadTargetAttention as Published

    attention_dim, input_dim = layer.W_q.weight.shape
    published = Published(input_dim, attention_dim, layer.num_heads, dropout_rate, use_scale)
    published.load_state_dict(layer.state_dict())
    return published


class TestMultiHeadTargetAttention:
    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize("form", ["dense", "rows"])
    @pytest.mark.parametrize(("attention_dim", "num_heads"), [(None, 1), (None, 3), (8, 2), (4, 4)])
    def test_formula(self, problem, table, attention_dim, num_heads, form, training):
        torch.manual_seed(0)
        layer = MultiHeadTargetAttention(D, attention_dim, num_heads).train(training)
        target, index, mask = problem
        history = ItemRows(table, index) if form == "rows" else table[index]
        want = reference.multi_head_target_attention(layer, target, table[index], mask)
        assert_same(want, layer(target, history, mask), [table, *layer.parameters()])

    @pytest.mark.parametrize("use_scale", [False, True])
    @pytest.mark.parametrize("dropout_rate", [0.0, 0.5])
    def test_equals_fuxictr(self, problem, table, dropout_rate, use_scale):
        """Also in training: with one seed the same weights are dropped. Rows without history apart, see below."""
        torch.manual_seed(0)
        layer = MultiHeadTargetAttention(D, 8, 2, dropout_rate, use_scale)
        published = fuxictr_attention(layer, dropout_rate, use_scale)
        target, index, mask = problem
        mask[0, 1] = True
        torch.manual_seed(4)
        want = published(target, table[index], mask)
        torch.manual_seed(4)
        got = layer(target, ItemRows(table, index), mask)
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)
        assert dropout_rate == 0 or not torch.equal(got, layer(target, ItemRows(table, index), mask))

    def test_rows_without_history_are_zero(self, problem, table):
        torch.manual_seed(0)
        layer = MultiHeadTargetAttention(D, num_heads=2)
        target, index, mask = problem
        interest = layer(target, table[index], mask)
        assert torch.equal(interest[0], torch.zeros(D))
        assert interest[1:].abs().sum(1).gt(0).equal(mask[1:].any(1))
        interest.sum().backward()
        assert all(p.grad.isfinite().all() for p in [table, *layer.parameters()])

    def test_history_of_length_zero(self, problem, table):
        target, index, mask = problem
        layer = MultiHeadTargetAttention(D, num_heads=2)
        for history in (ItemRows(table, index[:, :0]), table[index[:, :0]]):
            assert torch.equal(layer(target, history, mask[:, :0]), torch.zeros(B, D))

    def test_padding_does_not_matter(self, problem, table):
        target, index, mask = problem
        layer = MultiHeadTargetAttention(D, num_heads=2)
        history = table[index].detach()
        other = torch.where(mask.unsqueeze(-1), history, 1e3)
        torch.testing.assert_close(layer(target, history, mask), layer(target, other, mask))

    def test_no_position_is_projected(self, problem, table):
        target, index, mask = problem
        layer = MultiHeadTargetAttention(D, num_heads=2)
        seen = []
        for linear in (layer.W_q, layer.W_k, layer.W_v, layer.W_o):
            linear.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape)))
        layer(target, table[index], mask)
        assert seen == [(B, D), (B, D)]  # W_q and W_o; W_k and W_v only ever meet the target's side

    def test_half_precision(self, problem, table):
        target, index, mask = problem
        layer = MultiHeadTargetAttention(D, num_heads=2)
        want = layer(target, table[index], mask)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = layer(target, table[index], mask)
        torch.testing.assert_close(got.float(), want, atol=0.03, rtol=0.05)

    def test_heads_of_unequal_size(self):
        with pytest.raises(ValueError, match=r"attention_dim 6 .*num_heads 4"):
            MultiHeadTargetAttention(D, num_heads=4)


TYPES = ["field_all", "field_each", "field_interaction"]


class TestBilinearInteraction:
    @pytest.mark.parametrize("bilinear_type", TYPES)
    def test_formula(self, bilinear_type):
        torch.manual_seed(0)
        layer = BilinearInteraction(4, 3, bilinear_type)
        fields = torch.randn(B, 4, 3, requires_grad=True)
        got = layer(fields)
        assert got.shape == (B, layer.interact_dim, 3)
        assert_same(reference.bilinear(layer, fields), got, [fields, *layer.parameters()])

    @pytest.mark.parametrize("bilinear_type", TYPES)
    def test_equals_fuxictr(self, bilinear_type):
        from fuxictr.pytorch.layers import BilinearInteractionV2

        published = BilinearInteractionV2(5, 3, bilinear_type)
        layer = BilinearInteraction(5, 3, bilinear_type)
        layer.load_state_dict({"bilinear_W": published.bilinear_W.detach()})
        fields = torch.randn(B, 5, 3)
        torch.testing.assert_close(layer(fields), published(fields))

    def test_every_matrix_is_initialised_by_itself(self):
        torch.manual_seed(0)
        layer = BilinearInteraction(8, 32)
        torch.testing.assert_close(layer.bilinear_W.std(), torch.tensor(32**-0.5), atol=0.01, rtol=0)

    def test_unknown_type(self):
        with pytest.raises(ValueError, match=r"'field'.*field_all"):
            BilinearInteraction(4, 3, "field")


class TestUnifiedEmbedding:
    def test_other_sizes_are_projected_and_equal_ones_kept(self):
        torch.manual_seed(0)
        layer = UnifiedEmbedding([3, 2, 4], 3)
        assert [tuple(p.shape) for p in layer.parameters()] == [(3, 2), (3, 4)]
        x = torch.randn(B, L, 9)
        want = torch.cat(reference.unified(layer, [x[..., :3], x[..., 3:5], x[..., 5:]]), dim=-1)
        torch.testing.assert_close(layer(x), want)
        assert torch.equal(layer(x)[..., :3], x[..., :3])

    def test_without_features(self):
        assert UnifiedEmbedding([], 3)(torch.zeros(B, 0)).shape == (B, 0)

    def test_once_per_distinct_item(self, problem, table):
        layer = UnifiedEmbedding([D], 3)
        _, index, _ = problem
        rows = map_items(layer, ItemRows(table, index))
        assert rows.table.shape == (9, 3)
        torch.testing.assert_close(dense(rows), layer(table[index]))
