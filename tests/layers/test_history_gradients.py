"""Scores and sums of item rows and their gradients, in float64 against finite differences, and as on a GPU."""

import numpy as np
import pytest
import torch

from qin_zoo.layers.history import ItemRows, item_scores, sums_by_row, take_rows, weighted_sum

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


def sums(values, index, rows):
    """By NumPy, one place after the other."""
    found = np.zeros((rows, values.shape[-1]))
    np.add.at(found, index.flatten().numpy(), values.flatten(0, -2).double().numpy())
    return torch.from_numpy(found)


@pytest.mark.parametrize("shape", [(3, 4), (7,), (0,), (2, 3, 5)])
@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
def test_sums_by_row(shape, kind):
    torch.manual_seed(0)
    index, values = torch.randint(0, 9, shape, dtype=kind), torch.randn(*shape, 5, dtype=torch.float64)
    torch.testing.assert_close(sums_by_row(values, index, 11), sums(values, index, 11))
    half = sums_by_row(values.bfloat16(), index, 11)  # added up in more than half precision
    torch.testing.assert_close(half, sums(values.bfloat16(), index, 11).bfloat16(), rtol=2**-7, atol=1e-6)


def test_places_are_sorted_once_for_a_batch_and_anew_for_others(monkeypatch):
    asked, real = [], torch.Tensor.sort
    monkeypatch.setattr(torch.Tensor, "sort", lambda *given, **how: asked.append(1) or real(*given, **how))
    table, index = torch.randn(5, 3).requires_grad_(), INDEX.clone()

    def gradient():
        table.grad = None
        rows = ItemRows(table, index)
        loss = item_scores(torch.ones(3, 3), rows).sum() + weighted_sum(torch.ones(3, 4), rows).sum()
        (loss + take_rows(table, index).sum()).backward()
        return table.grad

    def places(rows):
        return torch.bincount(index.flatten(), minlength=rows).float()[:, None].expand(rows, 3)

    torch.testing.assert_close(gradient(), 3 * places(5))
    assert len(asked) == 1
    index[0, 0] = 3
    torch.testing.assert_close(gradient(), 3 * places(5))
    torch.testing.assert_close(sums_by_row(torch.ones(3, 4, 3), index, 9), places(9))
    assert len(asked) == 3
