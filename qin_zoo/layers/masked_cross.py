"""The cross networks of FCN (DCNv3), whose layers cross half of what they see and mask the other half."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MaskedCrossNetwork(nn.Module):
    """``x ← x_c ⊙ u + x``, ``u = [c; c ⊙ ReLU(LN(c))] + b``, ``c = BN(W x)`` of half the size; then one linear layer.

    x_c is x itself in the exponential network (order 2^l after l layers), the input in the linear one (order l + 1).
    All heads share the weights; the result is the mean of theirs. arXiv 2407.13349.

    Args:
        input_dim: n, even.
        num_layers: layers.
        num_heads: H.
        exponential: which of the two it is.
        dropout: rate after each layer.
        layer_norm: LN; without it the mask is ReLU(c).
        batch_norm: BN, with a channel for each head.
    """

    def __init__(
        self,
        input_dim: int,
        num_layers: int,
        num_heads: int,
        exponential: bool,
        dropout: float = 0.0,
        layer_norm: bool = True,
        batch_norm: bool = True,
    ):
        super().__init__()
        half, layers = input_dim // 2, range(num_layers)
        self.exponential = exponential
        self.w = nn.ModuleList(nn.Linear(input_dim, half, bias=False) for _ in layers)
        self.b = nn.ParameterList(nn.Parameter(torch.zeros(input_dim)) for _ in layers)
        self.batch_norm = nn.ModuleList(nn.BatchNorm1d(num_heads) if batch_norm else nn.Identity() for _ in layers)
        self.layer_norm = nn.ModuleList(nn.LayerNorm(half) if layer_norm else nn.Identity() for _ in layers)
        self.dropout = nn.Dropout(dropout)
        self._output = "dfc" if exponential else "sfc"  # names of the published checkpoints
        self.add_module(self._output, nn.Linear(input_dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, n) to (B, 1)."""
        first = x
        for linear, bias, batch_norm, layer_norm in zip(self.w, self.b, self.batch_norm, self.layer_norm):
            c = batch_norm(linear(x))  # (B, H, n/2)
            crossed = torch.cat([c, c * F.relu(layer_norm(c))], dim=-1) + bias
            x = self.dropout((x if self.exponential else first) * crossed + x)
        return self.get_submodule(self._output)(x).mean(dim=1)
