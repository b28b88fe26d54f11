"""Adaptive sparse target attention (QIN, WWW 2025 MM-CTR challenge)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qin_zoo.layers.history import History, item_scores, map_items, weighted_sum
from qin_zoo.layers.interest import InterestLayer
from qin_zoo.layers.pooling import masked_softmax


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

    def weights(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        query = _chain(target, self.W_q.weight, self.W_k.weight.t())  # (B, D)
        score = item_scores(query, history) * self.scale  # (B, L)
        return masked_softmax(score, mask) if self.normalize else F.relu(score) * mask

    def forward(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        pooled = weighted_sum(self.weights(target, history, mask), history)  # (B, D)
        return _chain(pooled, self.W_v.weight, self.W_o.weight) + target

    @torch.no_grad()
    def folded(self) -> FoldedASTA:
        """The same for scoring: each pair of projections is one matrix, and both are applied to the history alone."""
        return FoldedASTA(self)


class FoldedASTA(InterestLayer):
    """:class:`ASTA` with keys ``W_qᵀ W_k h_l / √d_a`` and values ``W_o W_v h_l``, once per item of the history.

    Args:
        layer: the layer to fold.
    """

    def __init__(self, layer: ASTA):
        super().__init__()
        w_q, w_k, w_v, w_o = (w.weight.double() for w in (layer.W_q, layer.W_k, layer.W_v, layer.W_o))
        dtype = layer.W_q.weight.dtype
        self.normalize = layer.normalize
        self.register_buffer("key", (w_q.t() @ w_k * layer.scale).to(dtype))  # (D, D)
        self.register_buffer("value", (w_o @ w_v).to(dtype))  # (D, D)

    def weights(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        score = item_scores(target, map_items(lambda h: F.linear(h, self.key), history))  # (B, L)
        return masked_softmax(score, mask) if self.normalize else F.relu(score) * mask

    def forward(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        value = map_items(lambda h: F.linear(h, self.value), history)
        return weighted_sum(self.weights(target, history, mask), value) + target


def _chain(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """``second · first · x`` of each row of x, (B, D) to (B, D'); the matrices are multiplied first if that is less."""
    batch, (inner, width), out = len(x), first.shape, len(second)
    if inner * width * out + batch * width * out < batch * inner * (width + out):
        return F.linear(x, second @ first)
    return F.linear(F.linear(x, first), second)
