"""Products with a history given as rows of a table, against the same with the vectors written out."""

import pytest
import torch

from qin_zoo.layers import ItemRows
from qin_zoo.layers.history import item_scores, shorten, weighted_sum

B, L, D, U = 5, 4, 6, 9


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.fixture
def index():
    return torch.randint(0, U, (B, L), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("function", [item_scores, weighted_sum])
@pytest.mark.parametrize("queries", [None, 1, 3])
def test_rows_equal_vectors(function, queries, index):
    table = randn(U, D)
    width = D if function is item_scores else L
    factor = randn(*([B, width] if queries is None else [B, queries, width]), seed=1)
    want = function(factor, table[index])
    got = function(factor, ItemRows(table, index))
    weights = torch.randn(want.shape)
    torch.testing.assert_close(got, want)
    for g, w in zip(
        torch.autograd.grad((got * weights).sum(), (factor, table)),
        torch.autograd.grad((want * weights).sum(), (factor, table)),
        strict=True,
    ):
        torch.testing.assert_close(g, w)


@pytest.mark.parametrize("function", [item_scores, weighted_sum])
def test_a_table_that_learns_nothing(function, index):
    table = randn(U, D).detach()
    factor = randn(B, D if function is item_scores else L)
    function(factor, ItemRows(table, index)).sum().backward()
    assert factor.grad.shape == factor.shape


def test_no_history():
    history = ItemRows(torch.ones(U, D), torch.zeros(B, 0, dtype=torch.long))
    assert item_scores(torch.ones(B, D), history).shape == (B, 0)
    assert item_scores(torch.ones(B, 2, D), history).shape == (B, 2, 0)
    assert torch.equal(weighted_sum(torch.ones(B, 0), history), torch.zeros(B, D))
    assert torch.equal(weighted_sum(torch.ones(B, 2, 0), history), torch.zeros(B, 2, D))


def test_the_same_bits_every_time():
    table, index = randn(50, 32), torch.randint(0, 50, (64, 20))
    query = randn(64, 32, seed=1)
    grads = [torch.autograd.grad(item_scores(query, ItemRows(table, index)).sum(), table)[0] for _ in range(3)]
    assert torch.equal(grads[0], grads[1])
    assert torch.equal(grads[0], grads[2])


def test_shorten_drops_what_nobody_has(index):
    mask = torch.tensor([[0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]).bool()
    rows, short = shorten(ItemRows(torch.ones(U, D), index), mask)
    assert torch.equal(rows.index, index[:, 1:])
    assert torch.equal(short, mask[:, 1:])
    vectors, _ = shorten(torch.ones(B, L, D), mask)
    assert vectors.shape == (B, L - 1, D)
    assert shorten(torch.ones(B, L, D), torch.zeros_like(mask))[1].shape == (B, 0)
