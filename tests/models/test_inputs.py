"""Means of lists against torch's embedding_bag, and distinct ids against NumPy's."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qin_zoo.models.inputs import _distinct, mean_of_few


@pytest.mark.parametrize("padding_idx", [0, 2, None])
def test_lists_longer_than_their_table_have_the_mean_of_embedding_bag(padding_idx):
    g = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 5, (7, 12), generator=g)
    ids[0], ids[1] = (0 if padding_idx is None else padding_idx), 4  # nothing but padding; one id alone
    results = []
    for mean in (mean_of_few, lambda ids, t: F.embedding_bag(ids, t.weight, mode="mean", padding_idx=padding_idx)):
        torch.manual_seed(1)
        table = nn.Embedding(5, 3, padding_idx=padding_idx).double()
        out = mean(ids, table)
        results.append((out, torch.autograd.grad((out * torch.arange(3)).sum(), table.weight)[0]))
    for fast, plain in zip(*results):
        torch.testing.assert_close(fast, plain, rtol=1e-12, atol=1e-12)


def test_a_short_precision_elsewhere_does_not_shorten_the_mean():
    table, ids = nn.Embedding(5, 3), torch.randint(0, 5, (4, 12))
    with torch.autocast("cpu", torch.bfloat16):
        assert mean_of_few(ids, table).dtype == torch.float32


@pytest.mark.parametrize("every", [40, 5000])  # fewer ids than places, and more
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_distinct_ids_are_those_of_numpy(every, dtype):
    index = torch.randint(every, (30, 7), generator=torch.Generator().manual_seed(0)).to(dtype)
    expected, place = np.unique(index.numpy(), return_inverse=True)
    found, where = _distinct(index, every)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(where, place.reshape(index.shape))
