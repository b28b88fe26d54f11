"""Adaptive sparse target attention (QIN, WWW 2025 MM-CTR challenge)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qin_zoo.layers.history import History, dense
from qin_zoo.layers.interest import InterestLayer
from qin_zoo.layers.pooling import masked_softmax, weighted_sum


class ASTA(InterestLayer):
    """Adaptive sparse target attention: ReLU weights, neither normalised nor dropped out.

    ``a_l = ReLU(mask_l · (W_q t)·(W_k h_l) / √d_a)``, ``o = W_o Σ_l a_l W_v h_l + t``, with bias-free
    projections. Computed as ``(W_kᵀ W_q t)·h_l`` and ``W_v Σ_l a_l h_l``, so that no history position is
    projected; exact up to rounding.

    Args:
        input_dim: D, size of an item representation.
        attention_dim: d_a, size of the projections. Default: ``2 * input_dim``, as published.
        normalize: weigh by a softmax over the history's real items instead, the ordinary target attention that
            the paper compares with; without any history ``o = t`` either way. Default: the ReLU.
    """

    def __init__(self, input_dim: int, attention_dim: int | None = None, normalize: bool = False):
        super().__init__()
        attention_dim = attention_dim or 2 * input_dim
        self.scale = attention_dim**-0.5
        self.normalize = normalize
        self.W_q = nn.Linear(input_dim, attention_dim, bias=False)
        self.W_k = nn.Linear(input_dim, attention_dim, bias=False)
        self.W_v = nn.Linear(input_dim, attention_dim, bias=False)
        self.W_o = nn.Linear(attention_dim, input_dim, bias=False)

    def forward(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        h = dense(history)  # (B, L, D)
        query = F.linear(self.W_q(target), self.W_k.weight.t())  # (B, D)
        score = torch.bmm(h, query.unsqueeze(2)).squeeze(2) * self.scale  # (B, L)
        weight = masked_softmax(score, mask) if self.normalize else F.relu(score) * mask  # (B, L)
        return self.W_o(self.W_v(weighted_sum(weight, h))) + target
