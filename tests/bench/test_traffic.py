"""Bytes of operations, counted by hand."""

import torch
from torch.nn import functional as F

from qin_zoo.bench.traffic import Traffic


def moved(function):
    with Traffic() as counted:
        function()
    return counted.bytes


def test_what_operations_move():
    x, table, index = torch.ones(10, 8), torch.ones(1000, 8), torch.zeros(5, 3, dtype=torch.int32)
    assert moved(lambda: x + x) == 2 * 320  # one operand, twice
    assert moved(lambda: x.add_(1)) == 2 * 320
    assert moved(lambda: torch.mul(x, table[:10], out=torch.empty(10, 8))) == 3 * 320
    assert moved(lambda: x @ x.t()) == moved(lambda: x.view(80)) == moved(lambda: torch.empty(9)) == 0
    assert moved(lambda: F.embedding(index, table)) == 15 * 4 + 2 * 15 * 32
    rows = 15 * 4 + 15 * 32 + 5 * 32  # the index, a row of the table for each, a bag's sum
    bags = moved(lambda: F.embedding_bag(index, table, mode="sum"))
    assert rows <= bags <= rows + 3 * 15 * 8  # and where bags begin


def test_a_backward_pass_counts():
    x = torch.ones(10, 8, requires_grad=True)
    assert moved(lambda: (x * x).sum().backward()) > 5 * 320
