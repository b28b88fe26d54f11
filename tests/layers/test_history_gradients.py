"""Scores and sums of item rows and their gradients, in float64 against finite differences, and as on a GPU."""

import pytest
import torch

from qin_zoo.layers.history import ItemRows, item_scores, take_rows, weighted_sum

INDEX = torch.tensor([[0, 0, 2, 4], [0, 3, 3, 1], [0, 0, 0, 0]], dtype=torch.int32)


@pytest.fixture(params=[False, True], ids=["cpu", "as on a GPU"])
def table(request, monkeypatch):
    torch.manual_seed(0)
    values = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    if request.param:  # where what adds nothing is spread
        monkeypatch.setattr(torch.Tensor, "is_cuda", True, raising=False)
    return values


@pytest.mark.parametrize("queries", [(), (2,)])
def test_scores_and_sums(table, queries):
    query = torch.randn(3, *queries, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, *queries, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda q, t: item_scores(q, ItemRows(t, INDEX)), (query, table))
    assert torch.autograd.gradcheck(lambda w, t: weighted_sum(w, ItemRows(t, INDEX)), (weight, table))
    assert torch.autograd.gradcheck(lambda t: take_rows(t, INDEX), table)


def test_a_weight_of_zero_has_a_gradient(table):
    weight = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, t: weighted_sum(w, ItemRows(t, INDEX)), (weight, table))
    weighted_sum(weight, ItemRows(table, INDEX)).sum().backward()
    torch.testing.assert_close(weight.grad, table.detach()[INDEX].sum(dim=2))
