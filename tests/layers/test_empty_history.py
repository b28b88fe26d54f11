"""A row without a history: its interest is 0, whatever stands in the padding and beside it in the batch."""

import pytest
import torch
from torch import nn

from qin_zoo.layers import (
    ASTA,
    DINAttention,
    ItemRows,
    MeanPooling,
    MultiHeadTargetAttention,
    TargetAttentionPooling,
    TargetTransformer,
)

B, L, D = 4, 5, 6


def mlp():
    return nn.Sequential(nn.Linear(4 * D, 8), nn.ReLU(), nn.Linear(8, 1))


LAYERS = {
    "din": lambda: DINAttention(mlp()),
    "din_softmax": lambda: DINAttention(mlp(), use_softmax=True),
    "din_softmax_folded": lambda: DINAttention(mlp(), use_softmax=True).folded(),
    "asta": lambda: ASTA(D),
    "asta_softmax": lambda: ASTA(D, normalize=True),
    "asta_softmax_folded": lambda: ASTA(D, normalize=True).folded(),
    "mean": MeanPooling,
    "target_attention": lambda: TargetAttentionPooling(D),
    "multi_head": lambda: MultiHeadTargetAttention(D, num_heads=2),
    "transformer": lambda: TargetTransformer(D, mask_convention="history", first_k_cols=2),
}


@pytest.fixture
def problem():
    g = torch.Generator().manual_seed(0)
    mask = torch.rand(B, L, generator=g) < 0.5
    mask[0], mask[1] = False, True
    return torch.randn(B, D, generator=g), torch.randn(9, D, generator=g), mask


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("form", ["dense", "rows"])
def test_nothing_comes_of_no_history(name, form, problem):
    torch.manual_seed(1)
    layer, (target, table, mask) = LAYERS[name]().eval(), problem
    index = torch.randint(0, 9, (B, L), generator=torch.Generator().manual_seed(2))
    if name == "transformer":
        nn.init.zeros_(layer.out_linear.bias)

    def interest(rows):
        history = ItemRows(table, index[rows]) if form == "rows" else table[index[rows]]
        return layer(target[rows], history, mask[rows])

    expected = target[:1] if name.startswith("asta") else 0.0  # ASTA adds the target to the interest
    for rows in ([0], [0, 1], [0, 0], [0, 1, 2, 3]):
        assert torch.equal(interest(rows)[:1], torch.zeros_like(interest(rows)[:1]) + expected), rows


@pytest.mark.parametrize("name", [n for n in LAYERS if n != "transformer"])
def test_padding_has_no_weight(name, problem):
    torch.manual_seed(1)
    layer, (target, table, mask) = LAYERS[name]().eval(), problem
    weights = layer.weights(target, table[torch.zeros(B, L, dtype=torch.long)], mask)
    mask = mask.unsqueeze(1) if weights.dim() == 3 else mask
    assert not (weights * ~mask).any()
    if "softmax" in name or name in ("target_attention", "multi_head", "mean"):
        assert torch.allclose(weights.sum(-1), mask.any(-1).float().expand(weights.shape[:-1]))
