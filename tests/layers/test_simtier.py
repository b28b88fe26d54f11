"""SimTier against its formula, item by item, and every form of a history alike."""

import math

import numpy as np
import torch
from torch.nn import functional as F

from qin_zoo.layers import ItemRows, SharedHistory, SimTier, cosines


def counted(cosine, mask, tiers):
    """Plain counts: N cells of one width over [−1, 1]."""
    edges = np.linspace(-1, 1, tiers + 1)
    counts = np.zeros((len(cosine), tiers))
    for row, (values, real) in enumerate(zip(cosine, mask)):
        for value, there in zip(values, real):
            if there:
                cell = next(i for i in range(tiers) if value <= edges[i + 1] + 1e-6)
                counts[row, cell] += 1
    return counts


def problem(seed=0):
    g = torch.Generator().manual_seed(seed)
    table = torch.randn(40, 6, generator=g)
    table[0], table[7] = 0, 0  # padding, and an item without a vector
    index = torch.randint(1, 40, (9, 12), generator=g)
    index[0] = 0
    index[1, :8] = 0
    index[2, :3], index[3, -1] = 7, 5
    target = table[torch.randint(1, 40, (9,), generator=g)].clone()
    target[3], target[4] = table[5], 0
    return table, index, target


def test_cosines_of_every_form():
    table, index, target = problem()
    expected = F.cosine_similarity(target.double().unsqueeze(1), table.double()[index], dim=2).numpy()
    for history in (table[index], ItemRows(table, index)):
        np.testing.assert_allclose(cosines(target, history), expected, atol=1e-6)
        with torch.autocast("cpu", torch.bfloat16):
            np.testing.assert_allclose(cosines(target, history), expected, atol=1e-6)
    shared = cosines(target, SharedHistory(table[index[5]], len(target)))
    np.testing.assert_allclose(shared, cosines(target, table[index[5]].expand(9, -1, -1)), atol=1e-6)
    found = cosines(target, ItemRows(table, index))
    for none in (found[index == 0], found[2, :3], found[4]):
        assert (none == 0).all()


def test_counts_are_those_of_a_loop():
    table, index, target = problem()
    cosine = cosines(target, ItemRows(table, index))
    mask = (index != 0) & (cosine != 0)
    for tiers in (1, 7, 10):
        got = SimTier(tiers)(cosine, mask)
        np.testing.assert_array_equal(got, counted(cosine.numpy(), mask.numpy(), tiers))
    assert SimTier(10)(cosine, mask)[3, -1] >= 1  # the target itself: cosine 1


def test_muse_weighs_logarithms():
    table, index, target = problem()
    layer = SimTier(20, learned=True)
    cosine = cosines(target, ItemRows(table, index))
    mask = (index != 0) & (cosine != 0)
    expected = torch.zeros(9, 22)
    for row in range(9):
        tiers = [math.ceil(10 * c - 1e-5) + 10 for c, real in zip(cosine[row].tolist(), mask[row]) if real]
        for tier in tiers:
            expected[row, tier] += 1
    expected = torch.log(1 + expected) * layer.weight.detach()
    torch.testing.assert_close(layer(cosine, mask).detach(), expected)


def test_a_cosine_of_one_has_one_tier_whatever_rounding_makes_of_it():
    around = torch.tensor([[1.0, 1 + 1.2e-7, 1 - 1.2e-7, -1.0, -1 - 1.2e-7]])
    counts = SimTier(10)(around, torch.ones(1, 5))
    assert counts[0].tolist() == [2, *[0] * 8, 3]
