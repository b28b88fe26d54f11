"""Dice on layer-normalised input, as MUSE has it; FuxiCTR's Dice normalises over the batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNormDice(nn.Module):
    """``p ⊙ x + γ ⊙ (1 − p) ⊙ x`` with ``p = σ(LN(x))``, LN without weights (MUSE, arXiv 2512.07216).

    Args:
        input_dim: n.
    """

    def __init__(self, input_dim: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((input_dim,), -0.25))

    def forward(self, x: Tensor) -> Tensor:
        """(…, n) to the same."""
        p = F.layer_norm(x, x.shape[-1:], eps=1e-12).sigmoid()
        return x * (p + self.gamma * (1 - p))
